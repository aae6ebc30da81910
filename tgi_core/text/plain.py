"""Keeps text that clients write from becoming special tokens in a prompt that a template builds.

A chat template marks roles and turns with special tokens. A message that spells one of them, such
as `<|im_end|>`, would be able to end its turn and begin another. So what clients write gets a mark
inside each such spelling before the template sees it; behind the template the marks become places
where the prompt is cut, and its parts are tokenized one by one: half a spelling is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tgi_core.contract import Tokenizer, TokenSpan

_CUT = "\ufdd0"
"""One of Unicode's characters that are never used in text that is exchanged."""

IMAGE_MARK = "\ufdd1"
"""Another one: stands in a prompt where an image is."""


@dataclass(frozen=True, slots=True)
class GuardedText:
    """A text to tokenize."""

    text: str
    cuts: tuple[int, ...] = ()
    """Where it is cut, ascending, so that no special token is found across."""
    images: tuple[str, ...] = ()
    """What clients gave as the images whose marks are in the text, in their order."""

    def __len__(self) -> int:
        """In characters."""
        return len(self.text)

    def parts(self) -> list[str]:
        """The text in pieces; none holds a special token that a client spelled."""
        ends = (*self.cuts, len(self.text))
        return [self.text[a:b] for a, b in zip((0, *self.cuts), ends, strict=True)]


class Guard:
    """Marks the spellings of some special tokens. Safe to call from several threads."""

    def __init__(self, special_texts: Collection[str]) -> None:
        """One of a single character cannot be cut, and is not kept apart."""
        longest_first = sorted(
            (text for text in special_texts if len(text) > 1), key=len, reverse=True
        )
        # looks ahead, so that spellings that overlap are all found
        found = "|".join(map(re.escape, longest_first))
        self._spelled = re.compile(f"(?=({found}))") if longest_first else None

    def mark(self, value: Any) -> Any:
        """The same text, list or dictionary, with marks wherever it spells a special token."""
        match value:
            case str():
                return self._mark(value)
            case Mapping():
                return {self.mark(key): self.mark(item) for key, item in value.items()}
            case list() | tuple():
                return [self.mark(item) for item in value]
            case _:
                return value

    def _mark(self, text: str) -> str:
        text = without_marks(text)
        if self._spelled is None:
            return text
        places = {match.start() + 1 for match in self._spelled.finditer(text)}
        return _CUT.join(GuardedText(text, tuple(sorted(places))).parts()) if places else text


def without_marks(text: str) -> str:
    """A client's text without our own characters."""
    return text.replace(_CUT, "").replace(IMAGE_MARK, "")


def unmarked(text: str, images: tuple[str, ...] = ()) -> GuardedText:
    """What a template made of marked values, and the images that are in it."""
    parts = text.split(_CUT)
    cuts, at = [], 0
    for part in parts[:-1]:
        at += len(part)
        cuts.append(at)
    return GuardedText("".join(parts), tuple(cuts), images)


def encode(tokenizer: Tokenizer, prompt: GuardedText, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a prompt.

    Raises:
        ValidationError: as `Tokenizer.encode`.
    """
    first, *others = prompt.parts()
    tokens = tokenizer.encode(first, add_special_tokens=add_special_tokens)
    for part in others:
        tokens += tokenizer.encode(part, add_special_tokens=False)
    return tokens


def spans(
    tokenizer: Tokenizer, prompt: GuardedText, *, add_special_tokens: bool
) -> list[TokenSpan]:
    """Like `encode`, with the place of each token in the whole text."""
    found: list[TokenSpan] = []
    begin = 0
    for place, part in enumerate(prompt.parts()):
        for span in tokenizer.spans(part, add_special_tokens=add_special_tokens and not place):
            start, stop = begin + span.start, begin + span.stop
            found.append(TokenSpan(token=span.token, start=start, stop=stop))
        begin += len(part.encode())
    return found
