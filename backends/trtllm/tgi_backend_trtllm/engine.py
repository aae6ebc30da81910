"""The engine: requests into TensorRT-LLM's generations, and their chunks into events.

Where a sequence ends is decided here, token by token, as core decides it; the executor is told the
same, so that it stops by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from tgi_backend_trtllm.answers import Answer
from tgi_backend_trtllm.job import Chunk, Job, JobRefused, LoadedAdapter
from tgi_backend_trtllm.options import ModelSetup, read_setup
from tgi_core.contract import (
    AdapterLoaded,
    AdapterRef,
    EngineInfo,
    Event,
    Feature,
    LoadRequest,
    Progress,
    Request,
    RequestFailed,
    RequestStarted,
    SamplingParams,
    StepStats,
    TokenEvent,
)
from tgi_core.errors import BackendDead, BadAdapter, NotEnoughCUDADevices, SetupError

if TYPE_CHECKING:
    from tgi_backend_trtllm.adapters import AdapterTable
    from tgi_backend_trtllm.pump import Pump
    from tgi_backend_trtllm.vendor import Model

logger = logging.getLogger(__name__)

_WAIT_S = 0.005
"""Longest wait for tokens: a new request may come."""
_FIRST_TOKEN_S = 600.0
"""Longest that a model which was loaded may take for the token of warm-up."""
_LOAD_S = 5.0


@dataclass(slots=True)
class _Open:
    """A request that has not ended."""

    number: int
    answer: Answer


class TrtLlmEngine:
    """Implements `tgi_core.contract.Engine` and `TakesAdapters`."""

    info: EngineInfo
    _setup: ModelSetup
    _model: Model
    _pump: Pump

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[str, _Open] = {}
        self._ids: dict[int, str] = {}
        """Of open requests, by number."""
        self._events: list[Event] = []
        self._adapters: AdapterTable | None = None
        self._prefilled = self._cached = self._generated = 0
        """Tokens: of prompts, computed and found in the cache; and new ones."""

    def start(self, request: LoadRequest, progress: Progress) -> EngineInfo:
        """Loads the model and generates a token with it.

        Raises:
            UsageError: see `read_setup`.
            NotEnoughCUDADevices: the model should be shared by GPUs that are not there.
            SetupError: the library cannot serve the model.
        """
        from tgi_backend_trtllm import vendor
        from tgi_backend_trtllm.adapters import AdapterTable
        from tgi_backend_trtllm.pump import Pump

        setup = self._setup = read_setup(request)
        if setup.num_gpus > vendor.num_gpus():
            raise NotEnoughCUDADevices(
                f"--num-shard asks for {setup.num_gpus} GPUs, and this machine has "
                f"{vendor.num_gpus()}."
            )
        features = vendor.features(vendor.version())
        if setup.adapters is not None:
            layers = frozenset(vendor.ADAPTED.values())
            self._adapters = AdapterTable(setup.path, setup.adapters, layers)
            features |= {Feature.ADAPTER}
        self._grammar_kinds = vendor.GRAMMAR_KINDS
        progress("loading weights", 0, 1, "models")
        self._model = vendor.Model(setup)
        progress("loading weights", 1, 1, "models")
        self._pump = Pump(self._model)
        progress("warming up", 0, 1)
        cache_tokens = self._warm_up()
        progress("warming up", 1, 1)
        longest = min(setup.max_sequence_tokens, cache_tokens)
        self.info = EngineInfo(
            device=f"TensorRT-LLM {vendor.version()} on {setup.num_gpus} GPU(s)",
            vocab_size=setup.vocab_size,
            max_prompt_tokens=longest - 1,
            max_sequence_tokens=longest,
            max_requests=setup.max_rows,
            cache_tokens=cache_tokens,
            features=features,
        )
        return self.info

    def submit(self, request: Request) -> None:
        """Hands a request to the executor, or fails it at once if it can never be served."""
        adapter = None
        fault = self._fault_of(request)
        if fault is None and request.adapter is not None and self._adapters is not None:
            try:
                adapter = self._adapters.get(request.adapter)
            except BadAdapter as error:
                fault = f"the adapter {request.adapter.name!r} cannot be used: {error}"
        if fault is not None:
            self._fail(request.request_id, fault, invalid=True)
            return
        number = next(self._numbers)
        answer = Answer(request, self.info.max_sequence_tokens)
        self._open[request.request_id] = _Open(number, answer)
        self._ids[number] = request.request_id
        self._pump.begin(number, _job(answer, adapter))

    def cancel(self, request_id: str) -> None:
        """Aborts the generation; what the executor still tells of it is passed over."""
        opened = self._open.pop(request_id, None)
        if opened is not None:
            del self._ids[opened.number]
            self._pump.abort(opened.number)

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Checks an adapter; the executor reads it with the first request that names it."""
        fault: str | None = "adapters are off: serve with --backend-option adapters=on"
        if self._adapters is not None:
            try:
                self._adapters.get(adapter)
                fault = None
            except BadAdapter as error:
                fault = str(error)
        self._events.append(AdapterLoaded(adapter=adapter, fault=fault))

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Nothing to do: the executor lets go of what was used longest ago."""

    @property
    def busy(self) -> bool:
        """Whether a request is open, or there is something to tell."""
        return bool(self._open or self._events)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What the executor has told.

        Raises:
            BackendDead: the executor is gone.
        """
        waits = min(timeout_s, _WAIT_S) if self._open and not self._events else 0
        news = self._pump.take(waits)
        for number, told in news:
            request_id = self._ids.get(number)
            if isinstance(told, Exception) and not isinstance(told, JobRefused):
                raise BackendDead(f"TensorRT-LLM's executor is gone: {told}") from told
            if request_id is None:
                continue  # cancelled, or ended by us before the executor ended it
            if isinstance(told, JobRefused):
                self._fail(request_id, str(told))
                self.cancel(request_id)
            else:
                answer = self._open[request_id].answer
                for event in answer.take(told):
                    self._count(event, answer.request)
                    self._events.append(event)
                if answer.ended:
                    self.cancel(request_id)
        events, self._events = self._events, []
        return events

    def stats(self) -> StepStats:
        """Gauges and counters; a request counts as running once it has its first token."""
        answers = [opened.answer for opened in self._open.values()]
        running = [answer for answer in answers if answer.started]
        load = self._pump.load
        return StepStats(
            num_running=len(running),
            num_waiting=len(answers) - len(running),
            running_max_tokens=sum(answer.longest for answer in running),
            cache_tokens_used=load.cache_tokens_used,
            cache_tokens=self.info.cache_tokens,
            memory_bytes=load.memory_bytes,
            steps=load.steps,
            prefill_tokens=self._prefilled,
            cached_tokens=self._cached,
            generated_tokens=self._generated,
        )

    def close(self) -> None:
        """Ends the executor."""
        self._pump.close()
        self._model.close()

    def _warm_up(self) -> int:
        """Generates a token, with which the executor tells how large its cache is.

        Raises:
            SetupError: it cannot, or does not tell.
        """
        job = Job(
            prompt=(0,),
            num_given=1,
            max_tokens=1,
            end_tokens=(),
            sampling=SamplingParams(),
            grammar=None,
            adapter=None,
            cache_salt="",
        )
        self._pump.begin(0, job)
        ended = False
        while not ended:
            told = self._pump.take(_FIRST_TOKEN_S)
            chunks = [chunk for _, chunk in told if isinstance(chunk, Chunk)]
            if not told or len(chunks) < len(told):
                fault = str(told[-1][1]) if told else f"no token in {_FIRST_TOKEN_S:.0f} s"
                self.close()
                raise SetupError(
                    f"TensorRT-LLM loaded the model and cannot generate with it: {fault}."
                )
            ended = any(chunk.end is not None for chunk in chunks)
        cache_tokens = self._pump.wait_for_load(_LOAD_S).cache_tokens
        if not cache_tokens:
            logger.warning("TensorRT-LLM does not tell how large its cache is")
        return cache_tokens or self._setup.cache_tokens or self._setup.max_sequence_tokens

    def _fault_of(self, request: Request) -> str | None:
        """Why a request can never be served."""
        if request.request_id in self._open:
            return f"a request {request.request_id} is open already"
        fault = self.info.fault_of(request)
        if fault is not None:
            return fault
        if request.sampling.adjustments:
            return f"this engine cannot make the adjustment {request.sampling.adjustments[0]!r}"
        if request.grammar is not None and request.grammar.kind not in self._grammar_kinds:
            known = ", ".join(sorted(kind.value for kind in self._grammar_kinds))
            return (
                f"TensorRT-LLM takes no grammar of the kind {request.grammar.kind.value}: {known}"
            )
        return None

    def _fail(self, request_id: str, message: str, *, invalid: bool = False) -> None:
        self._events.append(RequestFailed(request_id=request_id, message=message, invalid=invalid))

    def _count(self, event: Event, request: Request) -> None:
        match event:
            case RequestStarted():
                self._cached += event.num_cached
                held = len(request.prompt) + len(request.resumed)
                self._prefilled += held - event.num_cached
            case TokenEvent():
                self._generated += len(event.tokens)
            case _:
                pass


def _job(answer: Answer, adapter: LoadedAdapter | None) -> Job:
    request = answer.request
    return Job(
        prompt=(*request.prompt, *request.resumed),
        num_given=len(request.prompt),
        max_tokens=answer.max_tokens,
        end_tokens=request.stop.eos_token_ids if answer.heeds_ends else (),
        sampling=request.sampling,
        grammar=request.grammar,
        adapter=adapter,
        cache_salt=request.cache_salt,
    )
