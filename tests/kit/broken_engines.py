"""Engines that each break one promise, under the kit.

Only test_kit_catches_faulty_engines.py collects this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest

from tests.kit.test_step_engine_conforms import TestStepEngine as Conforming
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    BackendKind,
    BackendSpec,
    Engine,
    EngineInfo,
    Event,
    Feature,
    FinishReason,
    Probe,
    Request,
    RequestFailed,
    RequestStarted,
    StepStats,
    TokenEvent,
    Verdict,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.step_engine import StepEngine
from tgi_core.testing.conformance import EngineConformance
from tgi_core.testing.conformance.engine import driver
from tgi_core.testing.fake import FakeBackend, FakeShape

driver._PATIENCE_S = 2.0
SHAPE = FakeShape(max_rows=5, max_sequences=8, max_sequence_tokens=120)
ENGINES: dict[str, type[FaultyEngine]] = {}


class FaultyEngine(StepEngine):
    """Base of the faults; by itself without one."""

    def __init_subclass__(cls) -> None:
        ENGINES[cls.__name__] = cls

    def __init__(self) -> None:
        policy = FirstComeFirstServed()
        super().__init__(FakeBackend(SHAPE), policy, guidance=Guidance(LLGuidance()))

    def poll(self, timeout_s: float) -> list[Event]:
        return [told for event in super().poll(timeout_s) for told in self.told(event)]

    def told(self, event: Event) -> Sequence[Event]:
        return (event,)

    def submit(self, request: Request) -> None:
        super().submit(self.heard(request))

    def heard(self, request: Request) -> Request:
        return request


# Events


class StartsWithEachToken(FaultyEngine):
    def told(self, event):
        if isinstance(event, TokenEvent):
            return (RequestStarted(request_id=event.request_id, queue_s=0, num_cached=0), event)
        return (event,)


class SaysNothingOfTheStart(FaultyEngine):
    def told(self, event):
        return () if isinstance(event, RequestStarted) else (event,)


class GoesOnAfterTheEnd(FaultyEngine):
    def told(self, event):
        if isinstance(event, TokenEvent) and event.finish:
            return (event, replace(event, finish=None))
        return (event,)


class TellsLogprobsUnasked(FaultyEngine):
    def heard(self, request):
        return replace(request, sampling=replace(request.sampling, logprobs=True))


class TellsAllAtTheEnd(FaultyEngine):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, tuple[int, ...]] = {}

    def told(self, event):
        if not isinstance(event, TokenEvent):
            return (event,)
        tokens = self.kept[event.request_id] = self.kept.get(event.request_id, ()) + event.tokens
        return (replace(event, tokens=tokens),) if event.finish else ()


class IsNeverBusy(FaultyEngine):
    busy = False


class RunsMoreThanItMay(FaultyEngine):
    def stats(self) -> StepStats:
        stats = super().stats()
        return replace(stats, num_running=stats.num_running + stats.num_waiting, num_waiting=0)


class ForgetsWhatHasToWait(FaultyEngine):
    """It is asked for tokens, comes back each time, and makes none."""

    def submit(self, request):
        if self.scheduler.num_waiting + self.scheduler.num_running < SHAPE.max_rows:
            super().submit(request)

    @property
    def busy(self):
        return True


class CountsTwice(FaultyEngine):
    def stats(self) -> StepStats:
        stats = super().stats()
        return replace(stats, generated_tokens=2 * stats.generated_tokens)


# Ends


class StopsOneShort(FaultyEngine):
    def heard(self, request):
        most = max(1, request.stop.max_new_tokens - 1)
        return replace(request, stop=replace(request.stop, max_new_tokens=most))


class SwallowsTheEndToken(FaultyEngine):
    def told(self, event):
        if isinstance(event, TokenEvent) and event.finish is FinishReason.EOS:
            return (replace(event, tokens=(0,)),)
        return (event,)


class KnowsOneEndTokenOnly(FaultyEngine):
    def heard(self, request):
        first = request.stop.eos_token_ids[:1]
        return replace(request, stop=replace(request.stop, eos_token_ids=first))


class NamesTheTokenBeforeTheLength(FaultyEngine):
    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, tuple[int, ...]] = {}

    def heard(self, request):
        self.ends[request.request_id] = request.stop.eos_token_ids
        return request

    def told(self, event):
        if isinstance(event, TokenEvent) and event.finish:
            if event.tokens[-1] in self.ends[event.request_id]:
                return (replace(event, finish=FinishReason.EOS),)
        return (event,)


class EndsInSpiteOfTheWish(FaultyEngine):
    def heard(self, request):
        return replace(request, stop=replace(request.stop, ignore_eos=False))


class CountsFromTheResumption(FaultyEngine):
    def heard(self, request):
        most = request.stop.max_new_tokens + len(request.resumed)
        return replace(request, stop=replace(request.stop, max_new_tokens=most))


# Choices


class IgnoresSeeds(FaultyEngine):
    def __init__(self) -> None:
        super().__init__()
        self.draws = count()

    def heard(self, request):
        return replace(request, sampling=replace(request.sampling, seed=next(self.draws)))


class PenalizesThePrompt(FaultyEngine):
    def heard(self, request):
        sampling = request.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            bias = tuple((token, -2e4) for token in set(request.prompt))
            sampling = replace(sampling, logit_bias=(*sampling.logit_bias, *bias))
        return replace(request, sampling=sampling)


class IgnoresBiases(FaultyEngine):
    def heard(self, request):
        return replace(request, sampling=replace(request.sampling, logit_bias=()))


class TellsTheWorstFirst(FaultyEngine):
    def told(self, event):
        if isinstance(event, TokenEvent):
            return (replace(event, top=tuple(top[::-1] for top in event.top)),)
        return (event,)


class LosesTheLastLogprob(FaultyEngine):
    def told(self, event):
        if isinstance(event, TokenEvent) and event.finish is FinishReason.EOS:
            return (replace(event, logprobs=event.logprobs[:-1]),)
        return (event,)


# Neighbours


class CancelsLater(FaultyEngine):
    def __init__(self) -> None:
        super().__init__()
        self.late: list[str] = []

    def cancel(self, request_id: str) -> None:
        self.late.append(request_id)

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        while self.late:
            super().cancel(self.late.pop())
        return events


class KeepsWhatIsCancelled(FaultyEngine):
    def __init__(self) -> None:
        super().__init__()
        self.gone: set[str] = set()

    def cancel(self, request_id: str) -> None:
        self.gone.add(request_id)

    def told(self, event):
        return () if event.request_id in self.gone else (event,)


class CropsPrompts(FaultyEngine):
    def heard(self, request):
        return replace(request, prompt=request.prompt[: self.info.max_prompt_tokens])


class FailsTheNeighboursToo(FaultyEngine):
    def told(self, event):
        if isinstance(event, RequestFailed):
            others = [name for name in self._sequences if name != event.request_id]
            for name in others:
                self.cancel(name)
            return (event, *(replace(event, request_id=name) for name in others))
        return (event,)


class IgnoresWhatItDoesNotClaim(FaultyEngine):
    def start(self, request, progress) -> EngineInfo:
        info = super().start(request, progress)
        return replace(info, features=info.features - {Feature.PENALTIES})


class IgnoresGrammars(FaultyEngine):
    def heard(self, request):
        return replace(request, grammar=None)


class IgnoresAdapters(FaultyEngine):
    def heard(self, request):
        return replace(request, adapter=None)


class TestFaulty(EngineConformance):
    module = "tgi_core.testing.fake"
    package = "tgi_core.testing.fake"
    end_token = Conforming.end_token
    prepare = Conforming.prepare
    text_of = Conforming.text_of
    load_request = Conforming.load_request
    adapters = Conforming.adapters

    @classmethod
    def create_engine(cls, spec: BackendSpec) -> Engine:
        return spec.create()  # type: ignore[return-value]

    @pytest.fixture(scope="class", params=["FaultyEngine", *ENGINES])
    @classmethod
    def spec(cls, request: pytest.FixtureRequest) -> BackendSpec:
        return BackendSpec(
            name="faulty",
            contract=(1, 0),
            kind=BackendKind.ENGINE,
            probe=lambda: Probe(available=True),
            accepts=lambda files: Verdict(True),
            create=ENGINES.get(request.param, FaultyEngine),
        )
