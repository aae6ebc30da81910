"""Random traffic on a backend, within its capabilities. Judges nothing: notes all logits seen."""

from __future__ import annotations

import numpy as np

from tgi_core.testing.conformance.runner import Logits, Row, Runner

_MAX_LIVE = 4


class Traffic:
    """A few sequences of up to three blocks that come, grow, fork, shrink and go."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.seen: list[tuple[list[int], Logits]] = []
        """The tokens of a sequence, and the logits that the backend gave for the last one."""
        self._runner = runner
        self._rng = np.random.default_rng(seed)
        self._longest = 3 * runner.unit

    def move(self) -> None:
        """One random event; most are steps."""
        live = list(self._runner.held)
        dice = self._rng.random()
        if live and dice < 0.1:
            self._runner.release(self._pick(live))
        elif live and dice < 0.2:
            seq = self._pick(live)
            held = len(self._runner.held[seq])
            length = int(self._rng.integers(0, held + 1))
            truncates = self._runner.capabilities.truncates
            self._runner.truncate(seq, length if truncates else 0)
        elif live and dice < 0.35 and len(live) < _MAX_LIVE:
            self._fork(self._pick(live))
        else:
            self._step()

    def _pick(self, some: list[int]) -> int:
        return some[int(self._rng.integers(len(some)))]

    def _fork(self, src: int) -> None:
        lengths = self._runner.fork_lengths(len(self._runner.held[src]))
        if lengths:
            assert self._runner.fork(src, self._runner.new(), self._pick(lengths))

    def _step(self) -> None:
        runner = self._runner
        seqs = list(runner.held)
        if len(seqs) < _MAX_LIVE and self._rng.random() < 0.5:
            seqs.append(runner.new())
        self._rng.shuffle(seqs)
        # "one" and "many" tokens a row; both only where the backend mixes
        kinds = [True, False] if runner.capabilities.mixed else [self._rng.random() < 0.7]
        rows: list[Row] = []
        for seq in seqs[: int(self._rng.integers(1, min(4, runner.capabilities.max_rows + 1)))]:
            held = len(runner.held.get(seq, ()))
            one = kinds[int(self._rng.integers(len(kinds)))]
            room = self._longest - held
            if not one and (room < 2 or (held and not runner.capabilities.chunked)):
                continue
            if room < 1:
                continue
            n = 1 if one else int(self._rng.integers(2, min(room, runner.unit + 2) + 1))
            tokens = self._rng.integers(0, runner.capabilities.vocab_size, n).tolist()
            rows.append(Row(seq, tokens, self._want(n)))
        if not rows:
            return
        for row, logits in zip(rows, runner.step(*rows), strict=True):
            held_before = len(runner.held[row.seq]) - len(row.tokens)
            for place, some in zip(row.want, logits, strict=True):
                end = held_before + place % len(row.tokens) + 1
                self.seen.append((runner.held[row.seq][:end], some))

    def _want(self, n: int) -> tuple[int, ...]:
        if self._runner.sees_all:
            return tuple(np.flatnonzero(self._rng.random(n) < 0.5).tolist())
        return (-1,) if self._rng.random() < 0.8 else ()
