"""StepPlan to Step: sequences become arrays here, and none crosses further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Step, StepImage
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.sequence import Sequence

IntArray = NDArray[np.int32]


@dataclass(slots=True, eq=False)
class Output:
    """What one output of a step is for; not frozen, as a row is not."""

    row: PlannedRow
    scored: int | None
    """Index of a prompt token whose log-probability is wanted; None samples a new token."""
    ahead: int = 0
    """How many of the row's drafts come before it. It counts only if all of them are right."""

    @property
    def assumed(self) -> tuple[int, ...]:
        """The drafts that come before it."""
        return self.row.drafts[: self.ahead]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the outputs of a step are for."""

    sequences: list[Sequence]
    """Of each."""
    details: list[Output]
    """Of each; empty if every row is plain: each has one output then, and it samples."""


def build_step(plan: StepPlan) -> tuple[Step, Outputs]:
    """The arrays of a step, and what each of its outputs is for."""
    if not plan.special:
        # most steps are such, and no other lines run as often
        tokens = [
            row.sequence.tokens[row.begin] if row.previous is None else -1 - row.previous
            for row in plan.rows
        ]
        out = list(range(len(tokens)))
        return _step(plan, tokens, out), Outputs([row.sequence for row in plan.rows], [])
    tokens, out = [], []
    details: list[Output] = []
    for row in plan.rows:
        if not row.plain:
            _add_special(row, tokens, out, details)
            continue
        previous = row.previous
        out.append(len(tokens))
        details.append(Output(row, None))
        tokens.append(row.sequence.tokens[row.begin] if previous is None else -1 - previous)
    return _step(plan, tokens, out), Outputs([one.row.sequence for one in details], details)


def _add_special(row: PlannedRow, tokens: list[int], out: list[int], outputs: list[Output]) -> None:
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


def build_embedding(plan: StepPlan) -> Step:
    """The arrays of a step that embeds."""
    tokens = [t for row in plan.rows for t in row.sequence.tokens[row.begin : row.end]]
    return _step(plan, tokens, [])


def _step(plan: StepPlan, tokens: list[int], out: list[int]) -> Step:
    images, two_way, positions = [], None, None
    adapter = encoded = None
    if plan.special:
        if any(row.sequence.images for row in plan.special):
            images, two_way, positions = _images(plan), _two_way(plan), _positions(plan)
        if any(row.sequence.adapter_place for row in plan.special):
            adapter = np.array([row.sequence.adapter_place for row in plan.rows], np.int32)
        if any(row.sequence.num_encoded for row in plan.special):
            encoded = np.array([row.sequence.num_encoded for row in plan.rows], np.int32)
    return Step(
        seq=np.array([row.sequence.seq for row in plan.rows], np.int32),
        past=np.array([row.begin for row in plan.rows], np.int32),
        n=np.array([row.num_tokens for row in plan.rows], np.int32),
        tokens=np.array(tokens, np.int32),
        out=np.array(out, np.int32),
        encoded=encoded,
        adapter=adapter,
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
