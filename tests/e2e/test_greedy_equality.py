"""In float32 our backends give transformers' own greedy tokens, whatever happens around.

All 32 prompts take half an hour of one core, so `make test` takes a sample of them and
`make test-all` takes all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest

from tests.e2e import oracle
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    Capabilities,
    DType,
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Request,
    RequestFailed,
    StepBackend,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BACKENDS = ("torch", "openvino")
GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2_greedy.json"
CACHE_TOKENS = 40_960


@dataclass(frozen=True)
class Questions:
    """Which of the prompts are asked, and how many tokens each is to get."""

    indices: tuple[int, ...]
    num_new: int


ALL = Questions(tuple(range(32)), 64)
SAMPLE = Questions((3, 9, 15, 21), 12)
"""Of 2 to 172 tokens."""
CROWD = Questions(tuple(range(1, 19, 3)), 32)
"""Short ones, which are admitted together and then outgrow a small cache."""

asked = pytest.mark.parametrize(
    "asked",
    [pytest.param(SAMPLE, id="sample"), pytest.param(ALL, id="all", marks=pytest.mark.long)],
)


@dataclass
class Loaded:
    """A backend that engines take turns with: loading it takes longer than most tests."""

    backend: StepBackend
    capabilities: Capabilities
    folder: Path
    prompts: list[tuple[int, ...]]
    answers: list[list[int]]
    ties: list[str] = field(default_factory=list)

    def engine(self, limits: EngineLimits | None = None) -> StepEngine:
        for seq in range(self.capabilities.max_sequences):
            self.backend.release(seq)
        engine = StepEngine(self.backend, FirstComeFirstServed(), limits)
        engine.prepare(self.capabilities)
        return engine

    def check(self, outputs: dict[str, list[int]]) -> None:
        """Equal, or provably a tie: both candidates' logits are as good as equal."""
        model = None
        for request_id, tokens in outputs.items():
            i = int(request_id.partition("-")[0])
            # a sample asks for less than was kept
            expected = self.answers[i][: len(tokens)]
            assert len(tokens) in (SAMPLE.num_new, CROWD.num_new, len(self.answers[i]))
            if tokens == expected:
                continue
            at = next(k for k, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b)
            model = model or oracle.load(self.folder)
            context = [*self.prompts[i], *expected[:at]]
            gap = oracle.margin(model, context, tokens[at], expected[at])
            assert gap < 1e-4, f"prompt {i} differs at token {at}, and it is no tie: {gap}"


def load(name: str, folder: Path, cache_tokens: int = CACHE_TOKENS) -> Loaded:
    backend: StepBackend = import_module(f"tgi_backend_{name}.plugin").tgi_backend().create()
    capabilities = backend.load(
        LoadRequest(
            model=ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS),
            dtype=DType.FLOAT32,
            cache_tokens=cache_tokens,
            max_step_tokens=512,
            max_rows=64,
        ),
        lambda *a, **k: None,
    )
    golden = json.loads(GOLDEN.read_text())
    prompts = [tuple(p) for p in golden["prompts"]]
    return Loaded(backend, capabilities, folder, prompts, golden["answers"])


@pytest.fixture(scope="module", params=BACKENDS)
def loaded(request: pytest.FixtureRequest, smollm2: Path) -> Iterator[Loaded]:
    it = load(request.param, smollm2)
    yield it
    it.backend.close()


def wish(i: int, prompt: tuple[int, ...], count: int, suffix: str = "") -> Request:
    return Request(request_id=f"{i}-{suffix}", prompt=prompt, stop=StopRule(max_new_tokens=count))


def run(
    engine: StepEngine,
    arrivals: list[list[Request]],
    on_token: Callable[[str, int], None] = lambda request_id, count: None,
) -> dict[str, list[int]]:
    """Submits a list of requests before each step, then runs to the end."""
    outputs: dict[str, list[int]] = {}
    while arrivals or engine.busy:
        for wanted in arrivals.pop(0) if arrivals else []:
            outputs[wanted.request_id] = []
            engine.submit(wanted)
        for event in engine.poll(0):
            assert not isinstance(event, RequestFailed), event
            if isinstance(event, TokenEvent):
                outputs[event.request_id] += event.tokens
                on_token(event.request_id, len(outputs[event.request_id]))
    return outputs


def staggered(loaded: Loaded, asked: Questions) -> list[list[Request]]:
    """A new request every other step, long and short ones in turn."""
    order = sorted(asked.indices, key=lambda i: (i * 7) % 32)
    return [
        [wish(i, loaded.prompts[i], asked.num_new)] if step % 2 == 0 else []
        for step, i in enumerate(i for i in order for _ in range(2))
    ]


def test_the_kept_answers_are_transformers_own(loaded: Loaded) -> None:
    model = oracle.load(loaded.folder)
    for i in (0, 9, 18):
        assert oracle.generate(model, loaded.prompts[i], 12) == loaded.answers[i][:12]


@asked
def test_alone(loaded: Loaded, asked: Questions) -> None:
    engine = loaded.engine(EngineLimits(prefix_caching=False))
    for i in asked.indices:
        loaded.check(run(engine, [[wish(i, loaded.prompts[i], asked.num_new)]]))


@pytest.mark.parametrize(
    ("asked", "chunk"),
    [
        pytest.param(SAMPLE, 7, id="sample"),
        *(pytest.param(ALL, chunk, marks=pytest.mark.long) for chunk in (1, 7, 64, None)),
    ],
)
def test_together_in_chunks(loaded: Loaded, chunk: int | None, asked: Questions) -> None:
    engine = loaded.engine(EngineLimits(max_chunk_tokens=chunk, prefix_caching=False))
    outputs = run(engine, staggered(loaded, asked))
    assert len(outputs) == len(asked.indices)
    loaded.check(outputs)


@asked
def test_on_a_second_run_with_prefix_hits(loaded: Loaded, asked: Questions) -> None:
    engine = loaded.engine()
    loaded.check(run(engine, staggered(loaded, asked)))
    before = engine.stats()
    loaded.check(run(engine, staggered(loaded, asked)))
    after = engine.stats()
    num_tokens = sum(len(loaded.prompts[i]) for i in asked.indices)
    assert after.cached_tokens - before.cached_tokens > 0.9 * num_tokens - len(asked.indices)


@asked
def test_with_neighbours_being_cancelled(loaded: Loaded, asked: Questions) -> None:
    engine = loaded.engine()
    arrivals = staggered(loaded, asked)
    for wanted in arrivals:
        if wanted:
            i = int(wanted[0].request_id.partition("-")[0])
            neighbour = loaded.prompts[-1 - i][:300]
            wanted.append(wish(i, neighbour, asked.num_new, "cancelled"))

    def cancel(request_id: str, count: int) -> None:
        if request_id.endswith("cancelled") and count == 5:
            engine.cancel(request_id)

    outputs = run(engine, arrivals, cancel)
    loaded.check({k: v for k, v in outputs.items() if not k.endswith("cancelled")})
    assert engine.stats().num_running == 0


@asked
@pytest.mark.parametrize("name", BACKENDS)
def test_with_a_cache_so_small_that_sequences_are_preempted(
    name: str, smollm2: Path, asked: Questions
) -> None:
    # a little more than the longest sequence needs
    small = load(name, smollm2, cache_tokens=2304 if asked is ALL else 256)
    if asked is SAMPLE:
        asked = CROWD
    engine = small.engine()
    small.check(run(engine, staggered(small, asked)))
    assert engine.stats().preemptions > 0
    small.backend.close()
