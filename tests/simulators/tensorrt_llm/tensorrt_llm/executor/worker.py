"""The executor: in-flight batching, one token a request an iteration, in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tensorrt_llm.executor.request import LoRARequest
from tensorrt_llm.executor.result import RequestOutput, Response
from tensorrt_llm.guided import GuidedDecoder, mask_of
from tensorrt_llm.llmapi.llm_args import KvCacheConfig
from tensorrt_llm.model import CpuModel
from tensorrt_llm.sampler import sample
from tensorrt_llm.sampling_params import SamplingParams

_BLOCKS = 2048
"""If nobody says how large the cache is."""
_REMEMBERED = 16

FATAL_TOKEN = 13
"""A prompt that begins with it ends the executor, as a fault of the GPU would,"""
STALLING_TOKEN = 14
"""and with this one it never comes to an end, as with a collective that waits for a dead rank."""


@dataclass(slots=True, eq=False)
class _Running:
    result: RequestOutput
    params: SamplingParams
    stops: set[int]
    end: int | None
    lora: LoRARequest | None
    salt: str | None
    output: list[int] = field(default_factory=list)
    cache: Any = None
    matcher: Any = None
    num_cached: int = 0

    @property
    def prompt(self) -> list[int]:
        return self.result.prompt_token_ids

    @property
    def key(self) -> tuple[int, str | None]:
        """What requests must have in common to share blocks."""
        return (self.lora.lora_int_id if self.lora else 0, self.salt)


class Worker:
    def __init__(
        self,
        path: Path,
        *,
        max_batch_size: int,
        max_seq_len: int | None,
        cache: KvCacheConfig,
        end_token: int,
        guided: bool,
    ) -> None:
        self._model = CpuModel(path)
        self._max_batch_size = max_batch_size
        self._max_seq_len = max_seq_len or 1 << 20
        self._block = cache.tokens_per_block
        self._num_blocks = -(-cache.max_tokens // self._block) if cache.max_tokens else _BLOCKS
        self._guided = GuidedDecoder(path, self._model.vocab_size, end_token) if guided else None
        self._ids = count(1)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._cancelled: set[int] = set()
        self._remembered: deque[tuple[Any, list[int]]] = deque(maxlen=_REMEMBERED)
        self._iteration = 0
        self.stats: deque[dict[str, Any]] = deque(maxlen=1000)
        self.is_dead = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(
        self,
        prompt: list[int],
        params: SamplingParams,
        stops: set[int],
        end: int | None,
        lora: LoRARequest | None,
        salt: str | None,
    ) -> RequestOutput:
        result = RequestOutput(next(self._ids), prompt, self._abort)
        with self._changed:
            self._waiting.append(_Running(result, params, stops, end, lora, salt))
            self._changed.notify()
        return result

    def shutdown(self) -> None:
        with self._changed:
            self.is_dead = True
            self._changed.notify()
        self._thread.join()

    def _abort(self, request_id: int) -> None:
        with self._changed:
            self._cancelled.add(request_id)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.is_dead or self._waiting or self._running)
                if self.is_dead:
                    return
                self._drop_cancelled()
                self._admit()
            for running in tuple(self._running):
                if running.prompt[0] == STALLING_TOKEN:
                    with self._changed:
                        self._changed.wait_for(lambda: self.is_dead)
                if running.prompt[0] == FATAL_TOKEN:
                    self._die()
                    return
                self._advance(running)
            self._iteration += 1
            self.stats.append(
                {
                    "iter": self._iteration,
                    "gpuMemUsage": 1 << 30,
                    "kvCacheStats": {
                        "maxNumBlocks": self._num_blocks,
                        "usedNumBlocks": self._used(),
                        "freeNumBlocks": self._num_blocks - self._used(),
                        "tokensPerBlock": self._block,
                    },
                }
            )

    def _die(self) -> None:
        self.is_dead = True
        for running in (*self._running, *self._waiting):
            running.result.put(Response(error="CUDA error: an illegal access", fatal=True))

    def _blocks(self, running: _Running) -> int:
        """For the whole sequence: a request that runs is never paused."""
        longest = min(len(running.prompt) + running.params.max_tokens, self._max_seq_len)
        return -(-longest // self._block)

    def _used(self) -> int:
        return sum(self._blocks(running) for running in self._running)

    def _drop_cancelled(self) -> None:
        for running in (*self._waiting, *self._running):
            if running.result.request_id in self._cancelled:
                self._end(running, Response(finish_reason="cancelled"))
        self._cancelled.clear()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_batch_size:
            first = self._waiting[0]
            if self._used() + self._blocks(first) > self._num_blocks:
                return
            self._running.append(self._waiting.popleft())
            first.num_cached = self._reused(first)

    def _reused(self, running: _Running) -> int:
        """Tokens in whole blocks that another prompt began with; one is always computed."""
        best = 0
        for key, tokens in self._remembered:
            if key == running.key:
                same = 0
                for one, other in zip(tokens, running.prompt[:-1], strict=False):
                    if one != other:
                        break
                    same += 1
                best = max(best, same)
        return best // self._block * self._block

    def _advance(self, running: _Running) -> None:
        try:
            response = self._step(running)
        except (ValueError, AssertionError) as error:
            response = Response(error=str(error) or type(error).__name__)
        if response.finish_reason is not None or response.error is not None:
            self._remembered.append((running.key, running.prompt + running.output))
            self._end(running, response)
        else:
            running.result.put(response)

    def _step(self, running: _Running) -> Response:
        params, number = running.params, running.key[0]
        if not running.output:
            if running.lora is not None:
                self._model.read_adapter(number, Path(running.lora.lora_path))
            if params.guided_decoding is not None:
                assert self._guided is not None
                running.matcher = self._guided.matcher(params.guided_decoding)
        fed = running.output[-1:] or running.prompt
        logits, running.cache = self._model.forward(fed, running.cache, number)
        mask = None
        if running.matcher is not None:
            # of a matcher that has stopped, the end token alone
            mask = mask_of(running.matcher, self._model.vocab_size)
        token, logprobs = sample(logits, params, running.prompt, running.output, mask)
        if running.matcher is not None and not running.matcher.is_stopped():
            running.matcher.consume_token(token)
        running.output.append(token)
        told = {
            "tokens": (token,),
            "logprobs": (logprobs,) if params.logprobs else (),
            "cached_tokens": running.num_cached,
        }
        if token == running.end:
            return Response(**told, finish_reason="stop")
        if token in running.stops:
            if not params.include_stop_str_in_output:
                told |= {"tokens": (), "logprobs": ()}
            return Response(**told, finish_reason="stop", stop_reason=token)
        held = len(running.prompt) + len(running.output)
        if len(running.output) >= params.max_tokens or held >= self._max_seq_len:
            return Response(**told, finish_reason="length")
        return Response(**told)

    def _end(self, running: _Running, response: Response) -> None:
        if running in self._running:
            self._running.remove(running)
        else:
            self._waiting.remove(running)
        running.result.put(response)
