"""Drives a backend through the contract, and keeps count of what each sequence holds.

Knows how to respect the capabilities; judges no result beyond its shape and type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import (
    Capabilities,
    Embeds,
    Fork,
    LogitsRows,
    PendingLogits,
    Step,
    StepBackend,
    StepImage,
    pooled,
)
from tgi_core.testing.conformance.device import unit_of

Logits = NDArray[np.float32]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowImage:
    """A part of an image in a row."""

    encoded: Any
    skip: int
    at: tuple[int, ...]
    """Places in the row's tokens that its vectors take."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to append to one sequence in a step."""

    seq: int
    tokens: Sequence[int]
    """Those still to come after what the sequence holds; at least one."""
    want: tuple[int, ...] = (-1,)
    """Ascending places in `tokens` whose logits are wanted; -1 alone is the last one."""
    adapter: int = 0
    """Place of the row's adapter."""
    images: tuple[RowImage, ...] = ()


class Runner:
    """Sequences of one backend. All ids are empty at first, and after `clear`."""

    def __init__(self, backend: StepBackend, capabilities: Capabilities) -> None:
        self.backend = backend
        self.capabilities = capabilities
        self.unit = unit_of(capabilities)
        """Tokens between the borders that tests step over."""
        self.held: dict[int, list[int]] = {}
        """The tokens of each sequence that is not empty."""
        self._reserved: set[int] = set()
        self._next = 0

    @property
    def sees_all(self) -> bool:
        """Whether logits of any token can be had."""
        return self.capabilities.logits is LogitsRows.ALL

    def prompt(self, length: int, seed: int) -> list[int]:
        """Random tokens, the same in every run."""
        drawn = np.random.default_rng((length, seed)).integers(
            0, self.capabilities.vocab_size, length
        )
        return [int(token) for token in drawn]

    @property
    def unused(self) -> list[int]:
        """Ids that neither hold nor reserve anything; the one used longest ago comes first."""
        count = self.capabilities.max_sequences
        ids = ((self._next + i) % count for i in range(count))
        return [seq for seq in ids if seq not in self.held and seq not in self._reserved]

    def new(self) -> int:
        """An unused id; going round, so that tests meet different ones."""
        seq = self.unused[0]
        self._next = (seq + 1) % self.capabilities.max_sequences
        return seq

    def reserve(self, seq: int, length: int) -> bool:
        """Passes on to the backend."""
        granted = self.backend.reserve(seq, length)
        assert isinstance(granted, bool), "reserve returns True or False"
        if granted:
            self._reserved.add(seq)
        return granted

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Passes on to the backend."""
        granted = self.backend.fork(src, dst, length)
        assert isinstance(granted, bool), "fork returns True or False"
        if granted:
            self.held[dst] = self.held[src][:length]
        return granted

    def truncate(self, seq: int, length: int) -> None:
        """Passes on to the backend."""
        self.backend.truncate(seq, length)
        self.held[seq] = self.held[seq][:length]

    def shorten(self, seq: int, length: int) -> None:
        """Truncates a sequence; where the backend cannot, computes its beginning again."""
        if self.capabilities.truncates or length in (0, len(self.held[seq])):
            self.truncate(seq, length)
            return
        beginning = self.held[seq][:length]
        self.release(seq)
        self.feed(seq, beginning)

    def release(self, *seqs: int) -> None:
        """Passes on to the backend."""
        for seq in seqs:
            self.backend.release(seq)
            self.held.pop(seq, None)
            self._reserved.discard(seq)

    def clear(self) -> None:
        """Releases all that may hold something."""
        self.release(*sorted(self.held.keys() | self._reserved))

    def fill(self, but: tuple[int, ...] = ()) -> dict[int, int]:
        """Reserves whatever room is left, for unused ids other than `but`.

        Returns:
            The tokens reserved for each id.
        """
        grain, longest = self.capabilities.cache_grain_tokens, self.capabilities.max_sequence_tokens
        reserved: dict[int, int] = {}
        for seq in self.unused:
            length = min(grain, longest)
            while seq not in but and length > reserved.get(seq, 0) and self.reserve(seq, length):
                reserved[seq] = length
                length = min(length + grain, longest)
        return reserved

    def room(self, but: tuple[int, ...] = ()) -> int:
        """Tokens that unused ids other than `but` can reserve, found by doing so."""
        reserved = self.fill(but)
        self.release(*reserved)
        return sum(reserved.values())

    def fork_lengths(self, longest: int) -> list[int]:
        """Lengths up to `longest` at which the backend says it can fork; none if there are none."""
        grain = self.capabilities.cache_grain_tokens
        match self.capabilities.fork:
            case Fork.ANY:
                return list(range(1, longest + 1))
            case Fork.BLOCK:
                return list(range(grain, longest + 1, grain))
            case Fork.NONE:
                return []

    def launch(self, *rows: Row) -> PendingLogits:
        """Reserves room for the rows and starts a step, without reading its logits."""
        pending = self.backend.step(self._reserved_step(rows))
        self._note(rows)
        return pending

    def embed(self, *rows: Row) -> list[Vector]:
        """Computes a step that embeds; float32 (size,) for each row, of its own tokens."""
        embedding, backend = self.capabilities.embedding, self.backend
        assert embedding is not None and isinstance(backend, Embeds)
        vectors = backend.embed(self._reserved_step(rows))
        self._note(rows)
        assert vectors.dtype == np.float32, f"vectors are {vectors.dtype}, not float32"
        assert vectors.shape == (len(rows), embedding.size)
        # a copy, for they are valid until the next step only
        return list(vectors.copy())

    def embed_alone(self, tokens: Sequence[int], *, parts: int = 1) -> Vector:
        """float32 (size,): the vector of tokens, in a fresh sequence of their own.

        Args:
            tokens: the text.
            parts: in how many steps, at most as many as there are tokens.
        """
        assert self.capabilities.embedding is not None
        seq, vector, begin = self.new(), None, 0
        for part in np.array_split(np.array(tokens), parts):
            [new] = self.embed(Row(seq, part.tolist(), want=()))
            pooling = self.capabilities.embedding.pooling
            vector = pooled(pooling, vector, begin, new, len(part))
            begin += len(part)
        self.release(seq)
        assert vector is not None
        return vector

    def _reserved_step(self, rows: Sequence[Row]) -> Step:
        tokens: list[int] = []
        out: list[int] = []
        images: list[StepImage] = []
        past = [len(self.held.get(row.seq, ())) for row in rows]
        for row, begin in zip(rows, past, strict=True):
            room = begin + len(row.tokens)
            assert self.reserve(row.seq, room), (
                f"reserve({row.seq}, {room}) was refused although the sequences hold only "
                f"{sum(map(len, self.held.values()))} of {self.capabilities.cache_tokens} tokens"
            )
            out += [len(tokens) + place % len(row.tokens) for place in row.want]
            for image in row.images:
                at = np.array(image.at, np.int32) + np.int32(len(tokens))
                images.append(StepImage(encoded=image.encoded, skip=image.skip, at=at))
            tokens += row.tokens
        places = [row.adapter for row in rows]
        return Step(
            seq=np.array([row.seq for row in rows], np.int32),
            past=np.array(past, np.int32),
            n=np.array([len(row.tokens) for row in rows], np.int32),
            tokens=np.array(tokens, np.int32),
            out=np.array(out, np.int32),
            adapter=np.array(places, np.int32) if any(places) else None,
            images=tuple(images),
        )

    def _note(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.held[row.seq] = self.held.get(row.seq, []) + list(row.tokens)

    def read(self, pending: PendingLogits, *rows: Row) -> list[Logits]:
        """The logits of a step that was launched with these rows: float32 (wanted, vocab) each."""
        logits = pending.numpy()
        wanted = [len(row.want) for row in rows]
        assert logits.dtype == np.float32, f"logits are {logits.dtype}, not float32"
        assert logits.shape == (sum(wanted), self.capabilities.vocab_size)
        # a copy, for they are valid until the next step only
        return list(np.split(logits.copy(), np.cumsum(wanted)[:-1]))

    def step(self, *rows: Row) -> list[Logits]:
        """Computes a step; float32 (wanted, vocab) for each row."""
        return self.read(self.launch(*rows), *rows)

    def last(self, row: Row) -> Logits:
        """float32 (vocab,): the last token's logits in a step of one row."""
        logits = self.step(row)[0]
        return np.asarray(logits[-1])

    def feed(self, seq: int, tokens: Sequence[int], chunk: int | None = None) -> Logits:
        """Appends tokens in chunks, the largest ones by default.

        Where the backend cannot go on with a chunk, all but the first one is decoded.

        Returns:
            float32 (vocab,): the logits of the last token.
        """
        capabilities = self.capabilities
        largest = min(capabilities.max_prefill_tokens, capabilities.max_step_tokens)
        rest = list(tokens)
        while True:
            size = min(chunk or largest, largest)
            if self.held.get(seq) and not capabilities.chunked:
                size = 1
            piece, rest = rest[:size], rest[size:]
            if not rest:
                return self.last(Row(seq, piece))
            self.step(Row(seq, piece, want=()))

    def decode(self, seq: int, tokens: Sequence[int]) -> Logits:
        """Appends tokens one by one; float32 (len(tokens), vocab)."""
        return np.stack([self.last(Row(seq, [token])) for token in tokens])

    def alone(self, tokens: Sequence[int]) -> Logits:
        """float32 (vocab,): the logits after these tokens, from a fresh sequence of their own."""
        seq = self.new()
        logits = self.feed(seq, tokens)
        self.release(seq)
        return logits

    def continuations(self, beginning: Sequence[int], tail: Sequence[int]) -> Logits:
        """float32 (len(tail), vocab): after `beginning` and each prefix of `tail`, each alone."""
        return np.stack([self.alone([*beginning, *tail[: i + 1]]) for i in range(len(tail))])
