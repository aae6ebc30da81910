"""StepPlan to Step and SamplingBatch: sequences become arrays here, and none crosses further."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SamplingBatch, SamplingParams, Step, StepImage
from tgi_core.sampling.seeds import uniform
from tgi_core.scheduler.plan import PlannedRow, StepPlan

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Output:
    """What one output of a step is for."""

    row: PlannedRow
    scored: int | None
    """Index of a prompt token whose log-probability is wanted; None samples a new token."""
    ahead: int = 0
    """How many of the row's drafts come before it. It counts only if all of them are right."""

    @property
    def assumed(self) -> tuple[int, ...]:
        """The drafts that come before it."""
        return self.row.drafts[: self.ahead]


def build_step(plan: StepPlan) -> tuple[Step, list[Output]]:
    """The arrays of a step, and what each of its outputs is for."""
    tokens: list[int] = []
    out: list[int] = []
    outputs: list[Output] = []
    for row in plan.rows:
        sequence, flat = row.sequence, len(tokens)
        if row.previous is None:
            tokens.extend(sequence.tokens[row.begin : row.known_end])
        else:
            tokens.extend(sequence.tokens[row.begin : row.known_end - 1])
            tokens.append(-1 - row.previous)
        # an encoder gives no logits
        if sequence.request.prompt_logprobs and not sequence.num_encoded:
            for position in range(row.begin, min(row.end, sequence.num_prompt - 1)):
                out.append(flat + position - row.begin)
                outputs.append(Output(row, position + 1))
        if row.samples:
            last = len(tokens) - 1
            tokens.extend(row.drafts)
            for ahead in range(len(row.drafts) + 1):
                out.append(last + ahead)
                outputs.append(Output(row, None, ahead))
    return _step(plan, tokens, out), outputs


def build_embedding(plan: StepPlan) -> Step:
    """The arrays of a step that embeds."""
    tokens = [t for row in plan.rows for t in row.sequence.tokens[row.begin : row.end]]
    return _step(plan, tokens, [])


def _step(plan: StepPlan, tokens: list[int], out: list[int]) -> Step:
    images, two_way, positions = [], None, None
    if any(row.sequence.images for row in plan.rows):
        images, two_way, positions = _images(plan), _two_way(plan), _positions(plan)
    places = [row.sequence.adapter_place for row in plan.rows]
    encoded = [row.sequence.num_encoded for row in plan.rows]
    return Step(
        seq=np.array([row.sequence.seq for row in plan.rows], np.int32),
        past=np.array([row.begin for row in plan.rows], np.int32),
        n=np.array([row.num_tokens for row in plan.rows], np.int32),
        tokens=np.array(tokens, np.int32),
        out=np.array(out, np.int32),
        encoded=np.array(encoded, np.int32) if any(encoded) else None,
        adapter=np.array(places, np.int32) if any(places) else None,
        images=tuple(images),
        two_way=two_way,
        positions=positions,
    )


def _images(plan: StepPlan) -> list[StepImage]:
    """The parts of images that a step computes."""
    parts, flat = [], 0
    for row in plan.rows:
        shown_yet = row.sequence.images if row.begin < row.sequence.num_prompt else ()
        for shown in shown_yet:
            first, last = np.searchsorted(shown.places, (row.begin, row.end)).tolist()
            if first < last:
                at = (shown.places[first:last] + (flat - row.begin)).astype(np.int32)
                parts.append(StepImage(encoded=shown.encoded, skip=first, at=at))
        flat += row.num_tokens
    return parts


def _two_way(plan: StepPlan) -> IntArray | None:
    """int32 (B, 2): the blocks that a step computes, if there are any."""
    blocks, flat = [], 0
    for row in plan.rows:
        for begin, end in row.sequence.blocks:
            if row.begin <= begin and end <= row.end:
                blocks.append((begin - row.begin + flat, end - row.begin + flat))
        flat += row.num_tokens
    return np.array(blocks, np.int32) if blocks else None


def _positions(plan: StepPlan) -> IntArray | None:
    """int32 (A, T), if any sequence has more than its places."""
    several = [row.sequence.positions for row in plan.rows if row.sequence.positions is not None]
    if not several:
        return None
    axes = len(several[0].prompt)
    parts = []
    for row in plan.rows:
        positions = row.sequence.positions
        if positions is not None:
            parts.append(positions.of(row.begin, row.end))
        else:
            plain = np.arange(row.begin, row.end, dtype=np.int32)
            parts.append(np.broadcast_to(plain, (axes, len(plain))))
    return np.concatenate(parts, axis=1)


def build_sampling(outputs: list[Output]) -> SamplingBatch:
    """What to do with each output's logits."""
    params = [_params(o) for o in outputs]
    table = np.array(
        [
            (
                p.temperature,
                p.top_p,
                p.typical_p,
                p.min_p,
                p.repetition_penalty,
                p.frequency_penalty,
                p.presence_penalty,
            )
            for p in params
        ],
        np.float32,
    ).reshape(len(params), 7)
    columns = np.ascontiguousarray(table.T)
    forced = [-1 if o.scored is None else o.row.sequence.tokens[o.scored] for o in outputs]
    histories = [_history(o) for o in outputs]
    biases = [p.logit_bias for p in params]
    return SamplingBatch(
        temperature=columns[0],
        top_p=columns[1],
        typical_p=columns[2],
        min_p=columns[3],
        repetition_penalty=columns[4],
        frequency_penalty=columns[5],
        presence_penalty=columns[6],
        top_k=np.array([p.top_k for p in params], np.int32),
        uniform=_draws(outputs, params),
        logprobs=np.array([p.logprobs for p in params], np.bool_),
        num_top=np.array([p.num_top for p in params], np.int32),
        forced=np.array(forced, np.int32),
        history_begins=_begins(histories),
        history_tokens=np.array([t for h in histories for t in h], np.int32),
        history_counts=np.array([c for h in histories for c in h.values()], np.int32),
        bias_begins=_begins(biases),
        bias_tokens=np.array([t for b in biases for t, _ in b], np.int32),
        bias_values=np.array([v for b in biases for _, v in b], np.float32),
        mask_rows=np.zeros(0, np.int32),
        mask=np.zeros((0, 0), np.int32),
    )


def _params(output: Output) -> SamplingParams:
    """Prompt tokens are scored by the model's own distribution."""
    sampling = output.row.sequence.request.sampling
    return sampling if output.scored is None else SamplingParams(num_top=sampling.num_top)


def _history(output: Output) -> dict[int, int]:
    """How often the output held each token, if the drafts are right; see `Sequence.counts`."""
    counts = output.row.sequence.counts
    if counts is None or output.scored is not None:
        return {}
    history = dict(counts)
    for token in output.assumed:
        history[token] = history.get(token, 0) + 1
    return history


def _draws(
    outputs: list[Output], params: list[SamplingParams]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if all(p.greedy for p in params):
        return np.zeros(len(params), np.float64)
    seeds = np.array([p.seed for p in params], np.uint64)
    # a token still in flight counts: its successor's place is known before its value
    places = np.array(
        [o.row.known_end + o.ahead - o.row.sequence.num_prompt for o in outputs], np.int64
    )
    return uniform(seeds, np.maximum(places, 0).astype(np.uint64))


def _begins(
    lists: list[tuple[tuple[int, float], ...]] | list[dict[int, int]],
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array([0, *accumulate(map(len, lists))], np.int32)
