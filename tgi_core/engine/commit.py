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


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """Where a sequence ends at the latest."""

    sequence: int
    """Tokens in all."""
    decoded: int | None = None
    """Tokens besides those that an encoder reads; None: as many as there is room for."""

    def reached(self, sequence: Sequence) -> bool:
        """Whether no token has room after those of the sequence."""
        held = len(sequence.tokens)
        if self.decoded is not None and held - sequence.num_encoded >= self.decoded:
            return True
        return held >= self.sequence


def commit(outputs: list[Output], sampled: SampledTokens, longest: Longest) -> Committed:
    """Appends tokens to their sequences; those that ended meanwhile are passed over."""
    result = Committed()
    ids, logprobs = sampled.ids.tolist(), sampled.logprobs.tolist()
    for i, output in enumerate(outputs):
        sequence = output.row.sequence
        if output.ahead or sequence.status is not Status.RUNNING:
            continue  # a row's first output brings those behind its drafts
        request = sequence.request
        if output.scored is not None:
            top = _top(sampled, i, request.sampling.num_top)
            _score(sequence, output.scored, PromptScore(logprobs[i], top), result)
            continue
        rows = range(i, i + 1 + len(output.row.drafts))
        taken = _take(sequence, ids[rows.start : rows.stop], output.row.drafts, longest)
        if taken.num_tokens:
            result.events.append(_told(sequence, sampled, rows[: taken.num_tokens], taken.finish))
        if taken.fault is not None:
            result.events.append(RequestFailed(request_id=request.request_id, message=taken.fault))
            result.failed.append(sequence)
            continue
        result.num_tokens += taken.num_tokens
        result.num_drafts += len(output.row.drafts)
        result.num_accepted += taken.num_tokens - 1
        if taken.finish is None:
            result.continuing.append(sequence)
            result.last_outputs.append(rows[taken.num_tokens - 1])
        else:
            result.finished.append(sequence)
    return result


@dataclass(slots=True)
class _Taken:
    """What a sequence took of a row."""

    num_tokens: int = 0
    finish: FinishReason | None = None
    fault: str | None = None


def _take(sequence: Sequence, ids: list[int], drafts: tuple[int, ...], longest: Longest) -> _Taken:
    """Appends sampled tokens for as long as the drafts before them are right."""
    taken = _Taken()
    for token, draft in zip(ids, (*drafts, None), strict=True):
        if token < 0:
            if not taken.num_tokens:
                taken.fault = "the model produced no usable number for the next token (NaN or -inf)"
            break  # behind a draft it may be the draft's fault: the next step tells
        sequence.append(token)
        taken.finish = _finish(sequence, token, longest)
        if taken.finish is None:
            taken.fault = advance(sequence, token)
            if taken.fault is not None:
                break
        taken.num_tokens += 1
        if taken.finish is not None or token != draft:
            break
    return taken


def _told(
    sequence: Sequence, sampled: SampledTokens, rows: range, finish: FinishReason | None
) -> TokenEvent:
    wants = sequence.request.sampling
    ids, logprobs = sampled.ids, sampled.logprobs
    return TokenEvent(
        request_id=sequence.request.request_id,
        tokens=tuple(ids[rows.start : rows.stop].tolist()),
        logprobs=tuple(logprobs[rows.start : rows.stop].tolist())
        if wants.logprobs or wants.num_top
        else (),
        top=tuple(_top(sampled, row, wants.num_top) for row in rows) if wants.num_top else (),
        finish=finish,
    )


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


def _finish(sequence: Sequence, token: int, longest: Longest) -> FinishReason | None:
    """TGI's order: the length comes before the end-of-sequence token."""
    stop = sequence.request.stop
    if sequence.num_generated >= stop.max_new_tokens:
        return FinishReason.LENGTH
    # a guided sequence is given one only where the text is complete
    if token in stop.eos_token_ids and (not stop.ignore_eos or sequence.matcher is not None):
        return FinishReason.EOS
    if longest.reached(sequence):
        return FinishReason.LENGTH
    return None


def _top(sampled: SampledTokens, row: int, num: int) -> tuple[TopToken, ...]:
    ids, logprobs = sampled.top_ids[row, :num].tolist(), sampled.top_logprobs[row, :num].tolist()
    return tuple(
        TopToken(token=token, logprob=logprob)
        for token, logprob in zip(ids, logprobs, strict=True)
        if token >= 0
    )
