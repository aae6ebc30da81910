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
from tgi_core.engine.build import Output, Outputs
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


def commit(outputs: Outputs, sampled: SampledTokens) -> Committed:
    """Appends tokens to their sequences; those that ended meanwhile are passed over."""
    result = Committed()
    events, continuing, last_outputs = result.events, result.continuing, result.last_outputs
    ids, details, running = sampled.ids.tolist(), outputs.details, Status.RUNNING
    num_tokens = 0
    for i, sequence in enumerate(outputs.sequences):
        if sequence.status is not running:
            continue
        token = ids[i]
        if token < 0 or (details and not details[i].row.plain):
            _commit_special(sequence, details[i] if details else None, i, ids, sampled, result)
            continue
        # what that comes to for the common row, without a call: no other lines run as often
        tokens = sequence.tokens
        tokens.append(token)
        num_tokens += 1
        finish = None
        if len(tokens) >= sequence.ends_at or token in sequence.eos:
            finish = _finish(sequence, token)
        if finish is None:
            continuing.append(sequence)
            last_outputs.append(i)
        else:
            result.finished.append(sequence)
        known = _known(sequence, sampled, i, 1) if sequence.detailed else ((), ())
        # by place: names would take as long again
        events.append(TokenEvent(sequence.request.request_id, (token,), *known, finish))
    result.num_tokens += num_tokens
    return result


def _commit_special(
    sequence: Sequence,
    output: Output | None,
    i: int,
    ids: list[int],
    sampled: SampledTokens,
    result: Committed,
) -> None:
    """Output number i, of a row that is not plain, or brought no token."""
    scored: int | None = None
    drafts: tuple[int, ...] = ()
    if output is not None:
        if output.ahead:
            return  # a row's first output brings those behind its drafts
        scored, drafts = output.scored, output.row.drafts
    request = sequence.request
    if scored is not None:
        top = _top(sampled, i, request.sampling.num_top)
        _score(sequence, scored, PromptScore(float(sampled.logprobs[i]), top), result)
        return
    taken, finish, fault = _take(sequence, ids[i : i + 1 + len(drafts)], drafts)
    if taken:
        known = _known(sequence, sampled, i, len(taken))
        result.events.append(TokenEvent(request.request_id, taken, *known, finish))
    if fault is not None:
        result.events.append(RequestFailed(request_id=request.request_id, message=fault))
        result.failed.append(sequence)
        return
    result.num_tokens += len(taken)
    if drafts:
        result.num_drafts += len(drafts)
        result.num_accepted += len(taken) - 1
    if finish is None:
        result.continuing.append(sequence)
        result.last_outputs.append(i + len(taken) - 1)
    else:
        result.finished.append(sequence)


def _known(
    sequence: Sequence, sampled: SampledTokens, first: int, num: int
) -> tuple[tuple[float, ...], tuple[tuple[TopToken, ...], ...]]:
    """Log-probabilities and alternatives of `num` tokens, as far as a request wants to know."""
    wants = sequence.request.sampling
    if not (wants.logprobs or wants.num_top):
        return (), ()
    logprobs = tuple(sampled.logprobs[first : first + num].tolist())
    if not wants.num_top:
        return logprobs, ()
    return logprobs, tuple(_top(sampled, i, wants.num_top) for i in range(first, first + num))


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


def _top(sampled: SampledTokens, row: int, num: int) -> tuple[TopToken, ...]:
    ids, logprobs = sampled.top_ids[row, :num].tolist(), sampled.top_logprobs[row, :num].tolist()
    return tuple(
        TopToken(token=token, logprob=logprob)
        for token, logprob in zip(ids, logprobs, strict=True)
        if token >= 0
    )
