"""Sampled tokens into sequences: stop rules, finish reasons and events."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgi_core.contract import (
    Event,
    FinishReason,
    PromptScored,
    RequestFailed,
    SampledTokens,
    TokenEvent,
    TopToken,
)
from tgi_core.engine.build import Output
from tgi_core.engine.guidance import advance
from tgi_core.scheduler.sequence import PromptScore, Sequence, Status

_NO_NUMBER = "the model produced no usable number for the next token (NaN or -inf)"


@dataclass(slots=True)
class Committed:
    """What came of one step."""

    events: list[Event] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)
    """Ended as they should; to be parked."""
    failed: list[Sequence] = field(default_factory=list)
    """Ended by bad logits or by its grammar; to be released."""
    continuing: list[Sequence] = field(default_factory=list)
    """Got a token and go on."""
    last_outputs: list[int] = field(default_factory=list)
    """For each of these: the output that its last token was sampled from."""
    num_tokens: int = 0
    """New tokens of all of them that did not fail."""
    num_drafts: int = 0
    """Drafts that were looked at,"""
    num_accepted: int = 0
    """and those that were right and of use."""


def commit(outputs: list[Output], sampled: SampledTokens) -> Committed:
    """Appends tokens to their sequences; those that ended meanwhile are passed over."""
    result = Committed()
    events, continuing, last_outputs = result.events, result.continuing, result.last_outputs
    ids, logprobs, running = sampled.ids.tolist(), sampled.logprobs.tolist(), Status.RUNNING
    num_tokens = 0
    for i, output in enumerate(outputs):
        row = output.row
        sequence = row.sequence
        if sequence.status is not running or output.ahead:
            continue  # a row's first output brings those behind its drafts
        request = sequence.request
        wants = request.sampling
        if output.scored is not None:
            score = PromptScore(logprobs[i], _top(sampled, i, wants.num_top))
            _score(sequence, output.scored, score, result)
            continue
        token, fault = ids[i], None
        taken: tuple[int, ...]
        if row.plain and token >= 0:
            # what `_take` comes to here, without a call: no other line runs as often
            sequence.tokens.append(token)
            ends = len(sequence.tokens) >= sequence.ends_at or token in sequence.eos
            taken, finish = (token,), _finish(sequence, token) if ends else None
        else:
            taken, finish, fault = _take(sequence, ids[i : i + 1 + len(row.drafts)], row.drafts)
        end = i + len(taken)
        if taken:
            # by place: names would take as long again
            event = TokenEvent(
                request.request_id,
                taken,
                tuple(logprobs[i:end]) if wants.logprobs or wants.num_top else (),
                _tops(sampled, range(i, end), wants.num_top) if wants.num_top else (),
                finish,
            )
            events.append(event)
        if fault is not None:
            events.append(RequestFailed(request_id=request.request_id, message=fault))
            result.failed.append(sequence)
            continue
        num_tokens += len(taken)
        if row.drafts:
            result.num_drafts += len(row.drafts)
            result.num_accepted += len(taken) - 1
        if finish is None:
            continuing.append(sequence)
            last_outputs.append(end - 1)
        else:
            result.finished.append(sequence)
    result.num_tokens = num_tokens
    return result


def _take(
    sequence: Sequence, ids: list[int], drafts: tuple[int, ...]
) -> tuple[tuple[int, ...], FinishReason | None, str | None]:
    """Appends sampled tokens for as long as the drafts before them are right.

    Returns:
        Those that were taken, why the sequence ends with them, and why it fails.
    """
    taken: tuple[int, ...] = ()
    for token, draft in zip(ids, (*drafts, None), strict=True):
        if token < 0:
            if not taken:
                return taken, None, _NO_NUMBER
            break  # behind a draft it may be the draft's fault: the next step tells
        sequence.append(token)
        finish = _finish(sequence, token)
        fault = advance(sequence, token) if finish is None else None
        if fault is not None:
            return taken, None, fault
        taken = (*taken, token)
        if finish is not None:
            return taken, finish, None
        if token != draft:
            break
    return taken, None, None


def _score(sequence: Sequence, position: int, score: PromptScore, result: Committed) -> None:
    if len(sequence.scored) >= position:
        return  # told before this sequence was preempted
    sequence.scored.append(score)
    if position == sequence.num_prompt - 1:
        wants_top = sequence.request.sampling.num_top
        result.events.append(
            PromptScored(
                request_id=sequence.request.request_id,
                logprobs=tuple(score.logprob for score in sequence.scored),
                top=tuple(score.top for score in sequence.scored) if wants_top else (),
            )
        )


def _finish(sequence: Sequence, token: int) -> FinishReason | None:
    """TGI's order: the length that was asked for comes before the end-of-sequence token."""
    if sequence.num_generated >= sequence.request.stop.max_new_tokens:
        return FinishReason.LENGTH
    if token in sequence.eos:
        return FinishReason.EOS
    if len(sequence.tokens) >= sequence.ends_at:
        return FinishReason.LENGTH
    return None


def _tops(sampled: SampledTokens, rows: range, num: int) -> tuple[tuple[TopToken, ...], ...]:
    return tuple(_top(sampled, row, num) for row in rows)


def _top(sampled: SampledTokens, row: int, num: int) -> tuple[TopToken, ...]:
    ids, logprobs = sampled.top_ids[row, :num].tolist(), sampled.top_logprobs[row, :num].tolist()
    return tuple(
        TopToken(token=token, logprob=logprob)
        for token, logprob in zip(ids, logprobs, strict=True)
        if token >= 0
    )
