"""Wishes: how the outputs of a step are to be chosen, as arrays for the sampler.

What a sequence wants is the same from its first token to its last. So a table keeps it, a row for
each sequence id, and a step gathers the rows of its outputs; a step that samples for the same
sequences as the one before gets the same arrays again, but for the draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SamplingBatch, SamplingParams, Step
from tgi_core.engine.build import Output, Outputs
from tgi_core.sampling.seeds import uniform
from tgi_core.scheduler.sequence import Sequence

_NEUTRAL = SamplingParams()
_NO_TOKENS = np.zeros(0, np.int32)
_NO_NUMBERS = np.zeros(0, np.float32)
_NO_MASK = np.zeros((0, 0), np.int32)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """The wishes of some outputs."""

    sequences: list[Sequence]
    """Of each output."""
    batch: SamplingBatch
    """All but the draws."""
    seeds: NDArray[np.uint64]
    num_prompt: NDArray[np.int64]
    """Empty if nothing is drawn."""
    draws: bool
    """Whether any is not greedy."""


class Wishes:
    """The table of one engine."""

    def __init__(self, max_sequences: int) -> None:
        # behind the others: tokens of prompts, which are scored by the model's own distribution
        self._scored = max_sequences
        num_rows = max_sequences + 1
        self._params: list[SamplingParams | None] = [None] * num_rows
        self._numbers = np.zeros((7, num_rows), np.float32)
        self._top_k = np.zeros(num_rows, np.int32)
        self._num_top = np.zeros(num_rows, np.int32)
        self._logprobs = np.zeros(num_rows, np.bool_)
        self._biased = np.zeros(num_rows, np.bool_)
        self._seeds = np.zeros(num_rows, np.uint64)
        self._put(self._scored, _NEUTRAL)
        self._last: _Gathered | None = None

    def batch(self, step: Step, outputs: Outputs) -> SamplingBatch:
        """What to do with each output's logits; the arrays may be those of the last batch.

        Args:
            step: the one that they are of.
            outputs: all of them.
        """
        sequences, details = outputs.sequences, outputs.details
        if any(output.scored is not None for output in details):
            gathered = self._gather_scored(details, sequences)
        elif self._last is not None and self._last.sequences == sequences:
            gathered = self._last
        else:
            gathered = self._last = self._gather(sequences, [s.seq for s in sequences])
        batch = gathered.batch
        if details and any(s.counts is not None for s in sequences if not s.plain):
            batch = _with_histories(batch, details)
        if not gathered.draws:
            return batch
        # a token still in flight counts: its successor's place is known before its value
        ends = _positions(step) + 1
        places = np.maximum(ends - gathered.num_prompt, 0).astype(np.uint64)
        return replace(batch, uniform=uniform(gathered.seeds, places))

    def _gather_scored(self, outputs: list[Output], sequences: list[Sequence]) -> _Gathered:
        """Those of outputs some of which are tokens of prompts."""
        rows = [
            sequence.seq if output.scored is None else self._scored
            for output, sequence in zip(outputs, sequences, strict=True)
        ]
        gathered = self._gather(sequences, rows)
        for i, output in enumerate(outputs):
            if output.scored is not None:
                gathered.batch.num_top[i] = sequences[i].request.sampling.num_top
                gathered.batch.forced[i] = sequences[i].tokens[output.scored]
        return gathered

    def _gather(self, sequences: list[Sequence], rows: list[int]) -> _Gathered:
        known = self._params
        for row, sequence in zip(rows, sequences, strict=True):
            if known[row] is not sequence.request.sampling and row != self._scored:
                self._put(row, sequence.request.sampling)
        places = np.array(rows, np.intp)
        numbers = self._numbers.take(places, axis=1)
        batch = SamplingBatch(
            temperature=numbers[0],
            top_p=numbers[1],
            typical_p=numbers[2],
            min_p=numbers[3],
            repetition_penalty=numbers[4],
            frequency_penalty=numbers[5],
            presence_penalty=numbers[6],
            top_k=self._top_k[places],
            uniform=np.zeros(len(rows), np.float64),
            logprobs=self._logprobs[places],
            num_top=self._num_top[places],
            forced=np.full(len(rows), -1, np.int32),
            history_begins=np.zeros(len(rows) + 1, np.int32),
            history_tokens=_NO_TOKENS,
            history_counts=_NO_TOKENS,
            bias_begins=np.zeros(len(rows) + 1, np.int32),
            bias_tokens=_NO_TOKENS,
            bias_values=_NO_NUMBERS,
            mask_rows=_NO_TOKENS,
            mask=_NO_MASK,
        )
        if self._biased[places].any():
            biases = [(known[row] or _NEUTRAL).logit_bias for row in rows]
            batch = replace(
                batch,
                bias_begins=_begins(biases),
                bias_tokens=np.array([t for b in biases for t, _ in b], np.int32),
                bias_values=np.array([v for b in biases for _, v in b], np.float32),
            )
        draws = bool(numbers[0].any())
        num_prompt = np.array([s.num_prompt for s in sequences] if draws else (), np.int64)
        return _Gathered(sequences, batch, self._seeds[places], num_prompt, draws)

    def _put(self, row: int, params: SamplingParams) -> None:
        self._params[row] = params
        self._numbers[:, row] = (
            params.temperature,
            params.top_p,
            params.typical_p,
            params.min_p,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
        self._top_k[row] = params.top_k
        self._num_top[row] = params.num_top
        self._logprobs[row] = params.logprobs
        self._biased[row] = bool(params.logit_bias)
        self._seeds[row] = params.seed


def _positions(step: Step) -> NDArray[np.int32]:
    """int32 (L,): where the tokens of its outputs stand in their sequences."""
    if step.num_rows == step.num_tokens == len(step.out):
        return step.past
    return step.token_positions()[step.out]


def _with_histories(batch: SamplingBatch, outputs: list[Output]) -> SamplingBatch:
    histories = [_history(output) for output in outputs]
    return replace(
        batch,
        history_begins=_begins(histories),
        history_tokens=np.array([t for h in histories for t in h], np.int32),
        history_counts=np.array([c for h in histories for c in h.values()], np.int32),
    )


def _history(output: Output) -> dict[int, int]:
    """How often the output held each token, if the drafts are right; see `Sequence.counts`."""
    counts = output.row.sequence.counts
    if counts is None or output.scored is not None:
        return {}
    history = dict(counts)
    for token in output.assumed:
        history[token] = history.get(token, 0) + 1
    return history


def _begins(lists: list[tuple[tuple[int, float], ...]] | list[dict[int, int]]) -> NDArray[np.int32]:
    return np.array([0, *accumulate(map(len, lists))], np.int32)
