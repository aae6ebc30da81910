"""OpenVINO in bfloat16: greedy tokens depend neither on the batch nor on chunks nor on neighbours.

To the bit this holds for the logits of prompts in chunks of two and more tokens, and of decoding
rows beside any others. A chunk of one token takes the attention kernel of decoding rows, which
rounds differently; so an output that is computed again as a prompt, after a preemption, may differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import generate, no_progress
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat, Request, StopRule
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def requests() -> list[Request]:
    rng = random.Random(3)
    lengths = (2, 5, 12, 31, 32, 33, 64, 200)
    return [
        Request(
            request_id=str(i),
            prompt=tuple(rng.randrange(5, 40_000) for _ in range(length)),
            stop=StopRule(max_new_tokens=24, ignore_eos=True),
        )
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def outputs(smollm2: Path) -> Iterator[dict[str, object]]:
    """Tokens of each request: alone, together, in chunks, and beside others that are cancelled."""
    from openvino import Core
    from tgi_backend_openvino.device import computes
    from tgi_backend_openvino.plugin import tgi_backend

    if not computes(Core(), "CPU", DType.BFLOAT16):
        pytest.skip("needs a CPU with bfloat16 instructions (AVX512_BF16 or AMX)")
    backend = tgi_backend().create()
    capabilities = backend.load(
        LoadRequest(
            model=ModelFiles(reference="m", path=smollm2, format=ModelFormat.SAFETENSORS),
            dtype=DType.BFLOAT16,
        ),
        no_progress,
    )

    def engine(chunk: int | None = None) -> StepEngine:
        for seq in range(capabilities.max_sequences):
            backend.release(seq)
        limits = EngineLimits(max_chunk_tokens=chunk, prefix_caching=False)
        made = StepEngine(backend, FirstComeFirstServed(), limits)
        made.prepare(capabilities)
        return made

    alone = {}
    for request in requests():
        alone |= generate(engine(), [request])
    yield {
        "alone": alone,
        "together": generate(engine(), requests(), per_step=8),
        "arriving one by one": generate(engine(), requests(), per_step=1),
        "in chunks of 13": generate(engine(13), requests(), per_step=8),
        "beside others that are cancelled": {
            name: tokens
            for name, tokens in generate(engine(), requests(), cancel=("1", "4")).items()
            if name not in ("1", "4")
        },
    }
    backend.close()


@pytest.mark.parametrize(
    "circumstances",
    ["together", "arriving one by one", "in chunks of 13", "beside others that are cancelled"],
)
def test_greedy_tokens_are_those_of_each_request_alone(
    circumstances: str, outputs: dict[str, dict[str, list[int]]]
) -> None:
    alone = outputs["alone"]
    assert all(len(tokens) == 24 for tokens in alone.values())
    for name, tokens in outputs[circumstances].items():
        assert tokens == alone[name], f"request {name}, {circumstances}"
