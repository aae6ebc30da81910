"""A generation's chunks become events, in the contract's order, cut where the request ends.

Knows nothing of the executor; a request's own rules come before what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from tgi_backend_trtllm.job import Chunk, End
from tgi_core.contract import (
    Event,
    FinishReason,
    Request,
    RequestFailed,
    RequestStarted,
    TokenEvent,
    TopToken,
)


class Answer:
    """One request, and how far it is."""

    def __init__(self, request: Request, max_sequence_tokens: int) -> None:
        self.request = request
        self._max_sequence_tokens = max_sequence_tokens
        self._arrival_s = monotonic()
        self._num_generated = len(request.resumed)
        self.started = False
        self.ended = False

    @property
    def longest(self) -> int:
        """Tokens that the sequence can grow to."""
        wanted = len(self.request.prompt) + self.request.stop.max_new_tokens
        return min(wanted, self._max_sequence_tokens)

    @property
    def max_tokens(self) -> int:
        """How many may still be generated."""
        return self.longest - len(self.request.prompt) - self._num_generated

    @property
    def heeds_ends(self) -> bool:
        """Whether a token may end the sequence. A grammar gives one only where a text is whole."""
        return not self.request.stop.ignore_eos or self.request.grammar is not None

    def take(self, chunk: Chunk) -> list[Event]:
        """The events of a chunk, none if it holds no token and the executor goes on."""
        events: list[Event] = []
        if not self.started:
            self.started = True
            events.append(
                RequestStarted(
                    request_id=self.request.request_id,
                    # the executor does not tell when the prompt's turn came
                    queue_s=monotonic() - self._arrival_s,
                    num_cached=chunk.num_cached,
                )
            )
        tokens, finish = self._cut(chunk.tokens)
        if finish is None and chunk.end is End.LENGTH:
            finish = FinishReason.LENGTH
        fault = self._fault_of(chunk, finish, tokens)
        self.ended = finish is not None or fault is not None
        if fault is not None:
            return [*events, RequestFailed(request_id=self.request.request_id, message=fault)]
        if tokens:
            events.append(self._told(tokens, chunk.logprobs[: len(tokens)], finish))
        return events

    def _cut(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        """Those up to the first that ends the sequence; TGI's order, as everywhere."""
        stop = self.request.stop
        for i, token in enumerate(tokens, 1):
            self._num_generated += 1
            if self._num_generated == stop.max_new_tokens:
                return tokens[:i], FinishReason.LENGTH
            if self.heeds_ends and token in stop.eos_token_ids:
                return tokens[:i], FinishReason.EOS
            if self.max_tokens == 0:
                return tokens[:i], FinishReason.LENGTH
        return tokens, None

    def _fault_of(
        self, chunk: Chunk, finish: FinishReason | None, tokens: tuple[int, ...]
    ) -> str | None:
        wants = self.request.sampling
        if (wants.logprobs or wants.num_top) and any(
            token not in row for token, row in zip(tokens, _padded(chunk, tokens), strict=True)
        ):
            return "TensorRT-LLM told no log-probability of a token"
        if chunk.end is not None and (finish is None or not tokens):
            return f"TensorRT-LLM ended the sequence before its end ({chunk.end.value})"
        return None

    def _told(
        self,
        tokens: tuple[int, ...],
        logprobs: tuple[Mapping[int, float], ...],
        finish: FinishReason | None,
    ) -> TokenEvent:
        wants = self.request.sampling
        told: tuple[float, ...] = ()
        if wants.logprobs or wants.num_top:
            told = tuple(row[token] for token, row in zip(tokens, logprobs, strict=True))
        return TokenEvent(
            request_id=self.request.request_id,
            tokens=tokens,
            logprobs=told,
            top=tuple(_best(row, wants.num_top) for row in logprobs) if wants.num_top else (),
            finish=finish,
        )


def _padded(chunk: Chunk, tokens: tuple[int, ...]) -> tuple[Mapping[int, float], ...]:
    rows = chunk.logprobs[: len(tokens)]
    return (*rows, *({} for _ in range(len(tokens) - len(rows))))


def _best(row: Mapping[int, float], num: int) -> tuple[TopToken, ...]:
    best = sorted(row.items(), key=lambda item: -item[1])[:num]
    return tuple(TopToken(token=token, logprob=logprob) for token, logprob in best)
