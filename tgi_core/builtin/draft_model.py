"""The speculator `draft`: a smaller model of the same vocabulary guesses what the other one says.

After Leviathan et al., https://arxiv.org/abs/2211.17192. It holds a backend of its own, driven
through the contract like any other: each sequence has a twin in its cache, which is fed what is new
and then goes on by its likeliest tokens, all sequences side by side. What turns out wrong is
truncated. Twins are forgotten when room is short, and computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tgi_core.contract import (
    Capabilities,
    Draft,
    Drafter,
    DraftSetup,
    DraftWish,
    Speculator,
    Step,
    StepBackend,
)
from tgi_core.errors import UnsupportedModel, UsageError
from tgi_core.plugin import hookimpl


@dataclass(slots=True)
class _Twin:
    """What the draft model's cache holds of one sequence."""

    seq: int
    tokens: list[int] = field(default_factory=list)
    num_true: int = 0
    """How many of them are no guesses, as far as known."""


@dataclass(slots=True)
class _Row:
    """A sequence that is being drafted for."""

    twin: _Twin
    text: list[int]
    """All known tokens, then the draft so far."""
    end: int
    """Its length when the draft is complete."""

    @property
    def done(self) -> bool:
        return len(self.text) == self.end


class ModelDrafter:
    """Satisfies `Drafter`."""

    def __init__(self, backend: StepBackend, capabilities: Capabilities) -> None:
        self._backend = backend
        self._limits = capabilities
        self._free = list(range(capabilities.max_sequences - 1, -1, -1))
        # least recently used first
        self._twins: dict[str, _Twin] = {}

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        """The likeliest continuation of each sequence; none where there is no room for it."""
        wanted = {wish.request_id for wish in wishes}
        rows = [self._begin(wish, wanted) for wish in wishes]
        open_rows = [row for row in rows if row is not None]
        while open_rows:
            self._step(open_rows[: self._limits.max_rows])
            # those that are not done take turns
            open_rows = [r for r in open_rows[self._limits.max_rows :] if not r.done] + [
                r for r in open_rows[: self._limits.max_rows] if not r.done
            ]
        return [
            Draft(tokens=tuple(row.text[len(wish.tokens) :])) if row is not None else Draft()
            for row, wish in zip(rows, wishes, strict=True)
        ]

    def forget(self, request_id: str) -> None:
        """Frees what is held for a request."""
        twin = self._twins.pop(request_id, None)
        if twin is not None:
            self._backend.release(twin.seq)
            self._free.append(twin.seq)

    def _begin(self, wish: DraftWish, wanted: set[str]) -> _Row | None:
        """Brings a twin to where its sequence is, and makes room for the draft."""
        text = list(wish.tokens)
        end = len(text) + wish.most
        if end > self._limits.max_sequence_tokens or max(text) >= self._limits.vocab_size:
            return None
        twin = self._twins.pop(wish.request_id, None)
        if twin is None:
            if not self._free and not self._evict(wanted):
                return None
            twin = _Twin(self._free.pop())
        self._twins[wish.request_id] = twin
        # the last token is computed again if need be: its logits are wanted
        most = min(len(twin.tokens), len(text) - 1)
        kept = min(twin.num_true, most)
        while kept < most and twin.tokens[kept] == text[kept]:
            kept += 1
        if kept < len(twin.tokens):
            self._backend.truncate(twin.seq, kept)
            del twin.tokens[kept:]
        twin.num_true = kept
        while not self._backend.reserve(twin.seq, end):
            if not self._evict(wanted):
                self.forget(wish.request_id)
                return None
        twin.num_true = len(text)
        return _Row(twin, text, end)

    def _evict(self, wanted: set[str]) -> bool:
        """Forgets the twin that was used longest ago, but none that is wanted now."""
        victim = next((name for name in self._twins if name not in wanted), None)
        if victim is None:
            return False
        self.forget(victim)
        return True

    def _step(self, rows: list[_Row]) -> None:
        """Feeds rows what they lack, and adds a token to those that then lack nothing."""
        budget = self._limits.max_step_tokens
        longest = min(budget, self._limits.max_prefill_tokens)
        fed: list[tuple[_Row, list[int]]] = []
        for row in rows:
            begin = len(row.twin.tokens)
            tokens = row.text[begin : begin + min(longest, budget)]
            if tokens:
                fed.append((row, tokens))
                budget -= len(tokens)
        ends = np.cumsum([len(tokens) for _, tokens in fed])
        complete = [
            i
            for i, (row, tokens) in enumerate(fed)
            if len(row.twin.tokens) + len(tokens) == len(row.text)
        ]
        logits = self._backend.step(
            Step(
                seq=np.array([row.twin.seq for row, _ in fed], np.int32),
                past=np.array([len(row.twin.tokens) for row, _ in fed], np.int32),
                n=np.array([len(tokens) for _, tokens in fed], np.int32),
                tokens=np.array([t for _, tokens in fed for t in tokens], np.int32),
                out=(ends[complete] - 1).astype(np.int32),
            )
        ).numpy()
        for row, tokens in fed:
            row.twin.tokens += tokens
        for i, token in zip(complete, logits.argmax(axis=1).tolist(), strict=True):
            fed[i][0].text.append(token)


class ModelSpeculator:
    """Satisfies `Speculator`."""

    name = "draft"

    def start(self, setup: DraftSetup) -> Drafter:
        """Loads the draft model.

        Raises:
            SetupError: there is none, it does not fit, or its backend cannot run it in this way.
        """
        if setup.load is None or setup.create is None:
            raise UsageError(
                "--speculator draft needs a model that drafts: name a smaller one of the same "
                "family with --draft-model, or choose --speculator ngram."
            )
        backend = setup.create()
        capabilities = backend.load(setup.load, setup.progress)
        able = capabilities.generates and capabilities.mixed and capabilities.chunked
        if not (able and capabilities.truncates and capabilities.encoder is None):
            raise UnsupportedModel(
                f"{setup.load.model.reference} cannot draft here: that takes a backend that "
                "generates, goes on with prompts in chunks, mixes them with decoding and takes "
                "back what was wrong, and a model without an encoder."
            )
        backend.warm_up(setup.progress)
        return ModelDrafter(backend, capabilities)


@hookimpl
def tgi_speculators() -> Sequence[Speculator]:
    """The speculator for `--draft-model`."""
    return (ModelSpeculator(),)
