"""An engine over the GPU backend, on the CPU: what it generates is what the torch backend does."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_cuda.chip import describe
from tgi_backend_cuda.device import GpuDevice
from tgi_backend_torch.on_device import SamplingRankedBackend
from tgi_backend_torch.runner import TorchBackend

from tests.engines import generate, no_progress
from tests.families import GQA, Driver, make_model, request_for
from tests.image_requests import conversations, request_of, run
from tests.lazy_driver import LazyDriver
from tests.paged import SMALL
from tests.quantized import WIDE, write
from tests.quantized_formats import FORMATS
from tests.seeing import make_seeing
from tests.simulators.few_bits import MarlinLibrary, hub
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import DType, Request, SamplingParams, StopRule
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import UsageError

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU's tensors are for interpreted kernels"
)
ROOT = Path(__file__).parents[3]
CHIP = replace(describe("a small GPU", (9, 0), 2, 1 << 30), architecture=SMALL)


def gpu_backend(**driver) -> SamplingRankedBackend:
    return SamplingRankedBackend(GpuDevice("cuda", CHIP, LazyDriver(late=False, **driver)))


def requests_of(*kinds: tuple[int, float]) -> list[Request]:
    """Lengths of prompts, and temperatures."""
    return [
        Request(
            request_id=f"{i}",
            prompt=tuple(range(5 + i, 5 + i + length)),
            sampling=SamplingParams(seed=i, temperature=temperature),
            stop=StopRule(max_new_tokens=4),
        )
        for i, (length, temperature) in enumerate(kinds)
    ]


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
    requests = requests_of((3, 0.0), (14, 1.0), (1, 0.0))
    expected = generate(engine_over(TorchBackend(), folder), requests)
    assert generate(engine_over(gpu_backend(), folder), requests) == expected


def test_graphs_hold_marlins_kernels(tmp_path, monkeypatch):
    library = MarlinLibrary(multiprocessors=SMALL.multiprocessors)
    monkeypatch.setitem(sys.modules, "kernels", hub(library))
    config = transformers.LlamaConfig(**{**WIDE, "num_hidden_layers": 1})
    written = write(tmp_path, *FORMATS["marlin"], config)
    backend = gpu_backend()
    sizes = dict(max_rows=6, max_step_tokens=12, max_sequence_tokens=64, cache_tokens=128)
    # Triton's interpreter has no bfloat16
    backend.load(request_for(written.folder, dtype=DType.FLOAT16, **sizes), no_progress)
    backend.warm_up(no_progress)
    log = backend._own._device._driver.log
    asked, replayed = library.multiplied, log.count("replay")
    driver = Driver(backend, written.same)
    logits = driver.step({0: [5, 6, 7, 8], 1: [9, 10]})[0]
    assert np.corrcoef(logits.ravel(), driver.expected([5, 6, 7, 8]).ravel())[0, 1] > 0.9999
    assert log.count("replay") == replayed + 1
    # not by the layer down: it has 192 inputs, which Marlin has no tile for
    assert library.multiplied == asked + 6
    backend.close()


@pytest.mark.parametrize(
    ("family", "names", "max_rows", "max_step_tokens"),
    [
        ("gemma3", ["one"], 1, 20),
        # Triton's interpreter takes minutes for what follows
        *(
            pytest.param(family, ["one", "text", "first"], 2, 24, marks=pytest.mark.long)
            for family in ("llava_next", "qwen2_vl", "gemma3")
        ),
    ],
)
def test_images_change_no_token_and_what_follows_them_replays_graphs(
    family, names, max_rows, max_step_tokens, tmp_path
):
    model = make_seeing(tmp_path / "model", family)
    stop = StopRule(max_new_tokens=3)
    asked = conversations(model)
    wanted = [replace(request_of(model, name, *asked[name]), stop=stop) for name in names]
    sizes = dict(max_rows=max_rows, max_step_tokens=max_step_tokens, max_sequence_tokens=96)
    outputs = []
    for backend in (TorchBackend(), gpu_backend()):
        engine = StepEngine(backend, FirstComeFirstServed())
        engine.start(request_for(model.folder, cache_tokens=256, **sizes), no_progress)
        # the second time its beginning is in the cache
        outputs.append([run(engine, *wanted), run(engine, wanted[0])])
    assert outputs[0] == outputs[1]
    assert backend._device._driver.log.count("replay") >= 4


@pytest.mark.long
def test_two_ranks_replay_graphs_in_which_they_exchange_results(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    requests = requests_of((3, 0.0), (5, 1.0))
    backend = gpu_backend(num_devices=2)
    engine = engine_over(backend, folder, num_shards=2, num_threads=1)
    outputs = generate(engine, requests)
    assert backend._own._device._driver.log.count("replay") > 2
    backend.close()
    assert outputs == generate(engine_over(TorchBackend(), folder), requests)


def test_more_ranks_than_gpus_are_refused_before_anything_is_loaded(folder):
    with pytest.raises(UsageError, match="--num-shard is 3, and cuda has 2 devices here"):
        engine_over(gpu_backend(num_devices=2), folder, num_shards=3)


def test_nccl_listens_where_the_operator_says_or_on_loopback():
    device = gpu_backend()._device
    assert device.environment(1, 2, {}) == {"NCCL_SOCKET_IFNAME": "lo"}
    told = {"NCCL_SOCKET_IFNAME": "ib0"}
    assert device.environment(1, 2, told) == told


@pytest.mark.long
@pytest.mark.parametrize("family", ["mllama", "idefics"])
def test_layers_that_look_at_images_change_no_token(family, tmp_path):
    """A graph does not know them: what sees an image is launched call by call, text is replayed."""
    model = make_seeing(tmp_path / "model", family)
    asked = conversations(model)
    stop = StopRule(max_new_tokens=4)
    wanted = [replace(request_of(model, name, *asked[name]), stop=stop) for name in ("one", "text")]
    sizes = dict(max_rows=1, max_step_tokens=24, max_sequence_tokens=64)
    outputs = []
    for backend in (TorchBackend(), gpu_backend()):
        engine = StepEngine(backend, FirstComeFirstServed())
        engine.start(request_for(model.folder, cache_tokens=256, **sizes), no_progress)
        outputs.append(run(engine, *wanted))
    assert outputs[0] == outputs[1]
    assert "replay" in backend._device._driver.log


def test_options_turn_graphs_and_fusion_off(folder):
    backend = gpu_backend()
    engine_over(backend, folder, options={"graphs": "off", "fused": "off"})
    assert backend._own._here().computing.num_graphs == 0
    assert "capture" not in backend._device._driver.log
