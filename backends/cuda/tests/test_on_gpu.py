"""The whole backend on a GPU: the conformance kit, every family, the sampler, memory.

`make gpu` runs these; without a GPU they are skipped.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engines import generate, no_progress
from tests.families import (
    FAMILIES,
    VOCAB,
    Driver,
    check_any_batch,
    check_greedy,
    make_model,
    request_for,
)
from tests.image_requests import NUM, conversations, request_of, run
from tests.quantized import write
from tests.quantized_formats import FORMATS
from tests.seeing import make_seeing
from tests.transformers_conformance import TransformersConformance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    DType,
    Request,
    SampledTokens,
    SamplingBatch,
    SamplingParams,
    Step,
    StopRule,
)
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import OutOfMemory
from tgi_core.testing.conformance import SamplerConformance

ROOT = Path(__file__).parents[3]
SMOLLM2 = ROOT / ".models" / "smollm2-135m-instruct"
GOLDEN = ROOT / "tests" / "golden" / "smollm2_greedy.json"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]


class TestConformance(TransformersConformance):
    module = "tgi_backend_cuda.plugin"


class TestSampler(SamplerConformance):
    def sample(self, logits: np.ndarray, batch: SamplingBatch) -> SampledTokens:
        from tgi_backend_torch.sampler import sample, unpack

        def move(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).cuda()

        return unpack(sample(move(logits), batch, move).cpu().numpy())


@pytest.fixture
def backend():
    from tgi_backend_cuda.plugin import create

    made = create()
    yield made
    made.close()


@pytest.fixture
def drive(backend, tmp_path):
    """Name of a family, wishes -> Driver."""

    def make(family: str, **wishes) -> Driver:
        folder = make_model(tmp_path / "model", FAMILIES[family]())
        backend.load(request_for(folder, max_rows=6, max_step_tokens=160, **wishes), no_progress)
        backend.warm_up(no_progress)
        return Driver(backend, folder)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_in_any_batch(family, drive):
    check_any_batch(drive(family, max_sequence_tokens=160))


@pytest.mark.parametrize("name", ["gptq", "awq", "marlin", "fp8, a scale an output", "int8"])
def test_weights_in_few_bits_give_what_their_numbers_stand_for(name, backend, tmp_path):
    """By whatever kernel is there; the log says which."""
    if name == "int8":
        folder = same = make_model(tmp_path / "model", FAMILIES["llama"]())
    else:
        written = write(tmp_path, *FORMATS[name])
        folder, same = written.folder, written.same
    wishes = dict(dtype=DType.BFLOAT16, quantize="int8" if name == "int8" else None)
    backend.load(request_for(folder, max_rows=64, max_step_tokens=160, **wishes), no_progress)
    backend.warm_up(no_progress)
    driver = Driver(backend, same)
    for tokens in (list(range(10, 40)), [5]):
        logits = driver.step({0: tokens})[0]
        expected = driver.expected(driver.held[0])[-len(tokens) :]
        assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("option", ["graphs", "fused"])
def test_without_graphs_or_fusion_they_are_the_same(family, option, drive):
    check_any_batch(drive(family, max_sequence_tokens=160, options={option: "off"}))


def test_greedy_tokens_are_those_of_generate(drive):
    check_greedy(drive("llama"))


@pytest.mark.skipif(
    not (SMOLLM2 / "config.json").is_file(), reason="the real model is not in .models"
)
def test_the_real_models_greedy_tokens_are_those_of_generate(backend):
    golden = json.loads(GOLDEN.read_text())
    engine = StepEngine(backend, FirstComeFirstServed())
    engine.start(request_for(SMOLLM2, cache_tokens=1 << 16), no_progress)
    requests = [
        Request(request_id=f"{i}", prompt=tuple(prompt), stop=StopRule(max_new_tokens=len(answer)))
        for i, (prompt, answer) in enumerate(zip(golden["prompts"], golden["answers"], strict=True))
    ]
    outputs = generate(engine, requests)
    equal = [outputs[f"{i}"] == answer for i, answer in enumerate(golden["answers"])]
    # two candidates that are as good as equal may change places
    assert sum(equal) >= len(equal) * 0.95


def test_two_steps_in_flight_change_no_token(backend, tmp_path):
    from tgi_backend_torch.runner import TorchBackend

    folder = make_model(tmp_path / "model", FAMILIES["llama"]())
    rng = np.random.default_rng(11)
    kinds = [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9, "logprobs": True}]
    requests = [
        Request(
            request_id=f"r{i}",
            prompt=tuple(rng.integers(3, VOCAB, int(rng.integers(1, 40))).tolist()),
            sampling=SamplingParams(seed=i, **kinds[i % 3]),
            stop=StopRule(max_new_tokens=int(rng.integers(1, 30)), eos_token_ids=(2,)),
        )
        for i in range(15)
    ]
    outputs = []
    for made in (TorchBackend(), backend):
        engine = StepEngine(made, FirstComeFirstServed())
        engine.start(request_for(folder, max_rows=6, cache_tokens=512), no_progress)
        outputs.append(generate(engine, requests))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "gemma3", "paligemma"])
def test_tokens_after_images_are_those_of_generate(family, backend, tmp_path):
    model = make_seeing(tmp_path / "model", family)
    asked = conversations(model)
    engine = StepEngine(backend, FirstComeFirstServed())
    engine.start(request_for(model.folder, max_rows=8, cache_tokens=4096), no_progress)
    outputs = run(engine, *(request_of(model, name, *one) for name, one in asked.items()))
    assert outputs == {name: model.generate(*one, NUM) for name, one in asked.items()}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two NVIDIA GPUs")
@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "deepseek_v2"])
def test_two_gpus_compute_what_transformers_does_in_any_batch(family, drive):
    check_any_batch(drive(family, num_shards=2, max_sequence_tokens=160))


def test_a_cache_in_fp8_gives_nearly_the_same_logits(drive):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    driver = drive("llama", kv_cache_dtype="fp8_e4m3fn")
    tokens = list(range(10, 40))
    logits = driver.step({0: tokens})[0][-1]
    expected = driver.expected(tokens)[-1]
    assert np.corrcoef(logits, expected)[0, 1] > 0.99


def test_a_step_that_does_not_fit_is_refused_and_the_next_one_runs(drive):
    driver = drive("llama", options={"graphs": "off"}, max_sequence_tokens=160)
    driver.check({0: [5, 6, 7]})
    step = Step(
        seq=np.array([1], np.int32),
        past=np.array([0], np.int32),
        n=np.array([150], np.int32),
        tokens=np.full(150, 9, np.int32),
        out=np.arange(150, dtype=np.int32),
    )
    assert driver.backend.reserve(1, 150)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    hoard: list[torch.Tensor] = []
    try:
        for size in (1 << 20, 1 << 14, 512):
            fill_memory(hoard, size)
        with pytest.raises(OutOfMemory):
            driver.backend.step(step)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        hoard.clear()
    driver.check({0: [8]})


def fill_memory(hoard: list[torch.Tensor], size: int) -> None:
    try:
        while True:
            hoard.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        return
