"""The llamacpp backend gives llama-cpp-python's own greedy tokens, alone and in a batch.

In float32, because a quantized model takes other kernels for one token than for many, and their
rounding moves logits by more than the gap between candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.prompts import make_prompts
from tests.smollm2 import write_float32_gguf
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Request,
    RequestFailed,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def model(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_float32_gguf(smollm2_gguf, tmp_path_factory.mktemp("float32") / "model.gguf")


@pytest.fixture(scope="module")
def llama(model: Path) -> Iterator[Any]:
    made = llama_cpp.Llama(
        str(model),
        n_ctx=1024,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
        flash_attn=False,
        type_k=0,
        type_v=0,
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(llama: Any) -> list[tuple[tuple[int, ...], list[int]]]:
    """Prompts and what llama-cpp-python makes of them."""
    prompts = make_prompts(
        lambda text: llama.tokenize(text.encode(), add_bos=False, special=True), 6, 200
    )
    answers = []
    for prompt in prompts:
        llama.reset()
        stream = llama.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0)
        answers.append((prompt, [next(stream) for _ in range(NEW_TOKENS)]))
    return answers


@pytest.fixture(
    scope="module",
    # a stream for each of twelve sequences, or one pool of cells for all
    params=[12288, pytest.param(6144, marks=pytest.mark.long)],
    ids=["streams", "pool"],
)
def engine(model: Path, request: pytest.FixtureRequest) -> Iterator[StepEngine]:
    from tgi_backend_llamacpp.plugin import tgi_backend

    engine = StepEngine(
        tgi_backend().create(), FirstComeFirstServed(), EngineLimits(prefix_caching=False)
    )
    engine.start(
        LoadRequest(
            model=ModelFiles(reference=str(model), path=model, format=ModelFormat.GGUF),
            max_rows=8,
            max_sequence_tokens=1024,
            cache_tokens=request.param,
            num_threads=1,
            options={"type_k": "f32", "type_v": "f32", "flash_attn": "off"},
        ),
        lambda *a, **k: None,
    )
    yield engine
    engine.close()


def generate(engine: StepEngine, prompts: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
    outputs: dict[str, list[int]] = {name: [] for name in prompts}
    for name, prompt in prompts.items():
        stop = StopRule(max_new_tokens=NEW_TOKENS)
        engine.submit(Request(request_id=name, prompt=prompt, stop=stop))
        take(engine, outputs)  # so that they arrive one after the other
    while engine.busy:
        take(engine, outputs)
    return outputs


def take(engine: StepEngine, outputs: dict[str, list[int]]) -> None:
    for event in engine.poll(0):
        assert not isinstance(event, RequestFailed), event
        if isinstance(event, TokenEvent):
            outputs[event.request_id] += event.tokens


def check(llama: Any, prompt: tuple[int, ...], tokens: list[int], wanted: list[int]) -> None:
    """Equal, or provably a tie."""
    if tokens == wanted:
        return
    at = next(i for i, (a, b) in enumerate(zip(tokens, wanted, strict=True)) if a != b)
    llama.reset()
    llama.eval([*prompt, *wanted[:at]])
    logits = llama.eval_logits[-1]
    gap = abs(logits[tokens[at]] - logits[wanted[at]])
    assert gap < 1e-3, f"differs at token {at}, and it is no tie: {gap}"


def test_alone(engine: StepEngine, llama: Any, expected: list[tuple[Any, list[int]]]) -> None:
    for prompt, wanted in expected:
        check(llama, prompt, generate(engine, {"alone": prompt})["alone"], wanted)


def test_in_a_batch(engine: StepEngine, llama: Any, expected: list[tuple[Any, list[int]]]) -> None:
    outputs = generate(engine, {str(i): prompt for i, (prompt, _) in enumerate(expected)})
    for i, (prompt, wanted) in enumerate(expected):
        check(llama, prompt, outputs[str(i)], wanted)
