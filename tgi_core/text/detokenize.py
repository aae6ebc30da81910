"""Tokens to text, one at a time: a piece of text appears as soon as it can no longer change.

Two ways, both UTF-8 safe. `ByteStream` is for byte-level vocabularies, where each token is a fixed
string of bytes: exact and the fastest. `WindowStream` is for all others: it decodes the last few
tokens with and without the new one and takes the difference. Neither knows stop strings or files.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence

REPLACEMENT = "\ufffd"
"""What a decoder puts in place of bytes that are not UTF-8."""

_MAX_PENDING = 16
"""Tokens that may wait for the end of a character. A character has four bytes, but tokens may
cut one after the other in the middle; beyond this it is no character, and waiting would be for
ever."""


class TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level vocabulary, found out when first asked for."""

    def __init__(self, token_name: Callable[[int], str | None], skip: Collection[int]) -> None:
        """`token_name` gives a token's entry in the vocabulary; tokens in `skip` have no bytes."""
        super().__init__(dict.fromkeys(skip, b""))
        self._token_name = token_name

    def __missing__(self, token: int) -> bytes:
        name = self._token_name(token) or ""
        try:
            value = bytes(map(_BYTE_OF.__getitem__, name))
        except KeyError:
            # an added token that was not written in the byte alphabet stands for itself
            value = name.encode()
        self[token] = value
        return value


class ByteStream:
    """Satisfies TokenStream over a TokenBytes."""

    __slots__ = ("_bytes", "_decode")

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token: int) -> str:
        """The text that has become final; "" while a character is incomplete."""
        return self._decode(self._bytes[token])

    def flush(self) -> str:
        """What is left; an incomplete character becomes U+FFFD."""
        return self._decode(b"", True)


class WindowStream:
    """Satisfies TokenStream over any function that decodes a list of tokens."""

    __slots__ = ("_decode", "_known", "_num_known", "_skip", "_tokens")

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        before: Sequence[int],
        skip: Collection[int],
    ) -> None:
        """`before` is context, never given out again; tokens in `skip` have no text."""
        self._decode = decode
        self._skip = skip
        self._tokens = [token for token in before if token not in skip]
        self._num_known = len(self._tokens)
        self._known = decode(self._tokens) if self._tokens else ""

    def push(self, token: int) -> str:
        """The text that has become final; "" while a character is incomplete."""
        if token in self._skip:
            return ""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        waiting = len(self._tokens) - self._num_known < _MAX_PENDING
        if text.endswith(REPLACEMENT) and waiting:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What is left; an incomplete character becomes U+FFFD."""
        if len(self._tokens) == self._num_known:
            return ""
        return self._advance(self._decode(self._tokens))

    def _advance(self, text: str) -> str:
        """Gives out what is new in `text` and keeps the newest tokens as context."""
        new = text[len(self._known) :]
        self._tokens = self._tokens[self._num_known :]
        self._num_known = len(self._tokens)
        self._known = self._decode(self._tokens)
        return new


def _byte_alphabet() -> dict[str, int]:
    """Character to byte in byte-level vocabularies.

    Printable Latin-1 stands for itself; the other bytes, in order, are the characters from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }


_BYTE_OF = _byte_alphabet()
