"""What a generation gives: one object that grows while it is iterated over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class RequestError(RuntimeError):
    """One request failed, and it alone."""


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: Any = None
    generation_logits: Any = None
    additional_context_outputs: Any = None
    additional_generation_outputs: Any = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the executor sends of one iteration; the simulator's own."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[dict[int, Logprob], ...] = ()
    finish_reason: str | None = None
    stop_reason: Any = None
    cached_tokens: int = 0
    error: str | None = None
    fatal: bool = False
    """The executor is gone."""


class RequestOutput:
    """Async-iterable in the event loop in which it was made, as the real class is."""

    def __init__(self, request_id: int, prompt: list[int], abort: Callable[[int], None]) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt
        self.outputs = [CompletionOutput(0)]
        self.cached_tokens = 0
        self.finished = False
        self._abort = abort
        self._aborted = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Response] = asyncio.Queue()

    def abort(self) -> None:
        self._abort(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    def put(self, response: Response) -> None:
        """From the executor's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, response)

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        response = await self._queue.get()
        if response.error is not None:
            self.finished = True
            raise (RuntimeError if response.fatal else RequestError)(response.error)
        [completion] = self.outputs
        self.cached_tokens = response.cached_tokens
        completion.token_ids.extend(response.tokens)
        completion.logprobs.extend(response.logprobs)
        completion.finish_reason = response.finish_reason
        completion.stop_reason = response.stop_reason
        self.finished = response.finish_reason is not None
        return self
