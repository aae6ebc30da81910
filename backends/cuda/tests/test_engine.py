"""An engine over the GPU backend, on the CPU: what it generates is what the torch backend does."""

import dataclasses

import pytest
import torch
import transformers
from tgi_backend_cuda.chip import describe
from tgi_backend_cuda.device import GpuDevice
from tgi_backend_torch.on_device import SamplingTorchBackend
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress
from tests.families import GQA, make_model, request_for
from tests.lazy_driver import LazyDriver
from tests.paged import SMALL
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import Request, SamplingParams, StopRule
from tgi_core.engine.step_engine import StepEngine

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU's tensors are for interpreted kernels"
)
CHIP = dataclasses.replace(describe("a small GPU", (9, 0), 2, 1 << 30), architecture=SMALL)


def gpu_backend() -> SamplingTorchBackend:
    return SamplingTorchBackend(GpuDevice("cuda", CHIP, LazyDriver(late=False)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = transformers.LlamaConfig(**{**GQA, "num_hidden_layers": 1})
    return make_model(tmp_path_factory.mktemp("model"), config)


def engine_over(backend, folder, **wishes) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed())
    sizes = dict(max_rows=2, max_step_tokens=12, max_sequence_tokens=64, cache_tokens=128)
    engine.start(request_for(folder, **sizes, **wishes), no_progress)
    return engine


def test_two_steps_in_flight_over_graphs_and_fused_layers_change_no_token(folder):
    requests = [
        Request(
            request_id=f"{i}",
            prompt=tuple(range(5 + i, 5 + i + length)),
            sampling=SamplingParams(seed=i, temperature=temperature),
            stop=StopRule(max_new_tokens=4),
        )
        for i, (length, temperature) in enumerate([(3, 0.0), (14, 1.0), (1, 0.0)])
    ]
    expected = generate(engine_over(TorchBackend(), folder), requests)
    assert generate(engine_over(gpu_backend(), folder), requests) == expected


def test_options_turn_graphs_and_fusion_off(folder):
    backend = gpu_backend()
    engine_over(backend, folder, options={"graphs": "off", "fused": "off"})
    assert backend._here().computing.num_graphs == 0
    assert "capture" not in backend._device._driver.log
