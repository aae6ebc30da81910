"""What the backend does on whatever its driver drives, and what it calls of torch.xpu."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from tgi_backend_torch.on_device import SamplingRankedBackend
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_xpu.device import XpuDevice
from tgi_backend_xpu.driver import XpuDriver
from tgi_backend_xpu.plugin import tgi_backend

from tests.engines import generate, requests
from tests.families import FAMILIES, VOCAB, Driver, check_any_batch, make_model, request_for
from tests.image_requests import conversations, request_of
from tests.lora import two_adapters
from tests.plain_driver import MIB, OnCpu
from tests.seeing import make_seeing
from tests.smollm2 import put_folder
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import CONTRACT, AdapterRef, DType, Request, StopRule
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import UnsupportedModel, UsageError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def load(tmp_path):
    folder = make_model(tmp_path / "model", FAMILIES["llama"]())

    made_before = []

    def made(driver, **wishes):
        backend = SamplingRankedBackend(XpuDevice(driver))
        made_before.append(backend)
        limits = backend.load(request_for(folder, **wishes), lambda *told: None)
        return backend, limits, folder

    yield made
    for backend in made_before:
        backend.close()


def test_logits_are_those_of_a_whole_forward_in_any_batch(load):
    backend, limits, folder = load(OnCpu(), device="xpu", max_rows=6, max_sequence_tokens=160)
    assert (limits.device, limits.steps_in_flight) == ("xpu", 2)
    check_any_batch(Driver(backend, folder))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_real_models_greedy_tokens_are_those_of_generate():
    smollm2 = put_folder(ROOT / ".models" / "smollm2-135m-instruct")
    golden = json.loads((ROOT / "tests" / "golden" / "smollm2_greedy.json").read_text())
    driver = OnCpu()
    driver.free = 4096 * MIB
    engine = StepEngine(SamplingRankedBackend(XpuDevice(driver)), FirstComeFirstServed())
    wishes = {"dtype": DType.FLOAT32, "device": "xpu", "max_rows": 32, "cache_tokens": 8192}
    engine.start(request_for(smollm2, **wishes), lambda *told: None)
    wanted = [
        Request(request_id=f"{i}", prompt=tuple(prompt), stop=StopRule(max_new_tokens=len(answer)))
        for i, (prompt, answer) in enumerate(zip(golden["prompts"], golden["answers"], strict=True))
    ]
    outputs = generate(engine, wanted, per_step=len(wanted))
    engine.close()
    assert outputs == {f"{i}": answer for i, answer in enumerate(golden["answers"])}


@pytest.mark.long
def test_500_mixed_requests_give_what_the_cpu_gives(tmp_path):
    """With two steps in flight, and tokens chosen on the device."""
    config = FAMILIES["llama"]()
    config.vocab_size = 128
    folder = make_model(tmp_path / "model", config)
    wanted = requests(500, seed=3, max_prompt=40, max_new=5, temperature=0.8)
    cancelled = {f"r{i}" for i in range(0, 500, 50)}
    outputs = []
    for backend in (SamplingRankedBackend(XpuDevice(OnCpu())), TorchBackend()):
        engine = StepEngine(backend, FirstComeFirstServed())
        sizes = {"max_rows": 12, "max_sequence_tokens": 96, "max_step_tokens": 64}
        wishes = {**sizes, "cache_tokens": 1280, "num_threads": 1, "dtype": DType.FLOAT32}
        engine.start(request_for(folder, **wishes), lambda *told: None)
        told = generate(engine, wanted, per_step=3, cancel=cancelled)
        assert engine.stats().cached_tokens > 0
        outputs.append({name: told[name] for name in told.keys() - cancelled})
        engine.close()
    assert len(outputs[0]) == 490
    assert outputs[0] == outputs[1]


@pytest.mark.long
def test_two_ranks_have_two_steps_in_flight_and_one_does_not_outlive_the_other(load, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    wanted = [
        replace(each, prompt=tuple(token % VOCAB for token in each.prompt))
        for each in requests(12, seed=7, max_prompt=30, max_new=6, temperature=0.8)
    ]
    outputs = []
    for size in (1, 2):
        backend, limits, _ = load(OnCpu(num_devices=2), num_shards=size, num_threads=1, max_rows=4)
        assert limits.steps_in_flight == 2
        engine = StepEngine(backend, FirstComeFirstServed())
        engine.prepare(limits)
        outputs.append(generate(engine, wanted))
    assert outputs[0] == outputs[1]
    # a device would wait for a rank that has died, and the host for the device
    ended = Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    backend._followers._processes[0].kill()
    assert ended.wait(60)


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "llava_next", "mllama"])
def test_two_ranks_have_adapters_and_images_as_one_does(family, tmp_path, monkeypatch):
    """Sampled on the device, with two steps in flight."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    if family == "llama":
        folder = make_model(tmp_path / "model", FAMILIES[family]())
        paths = two_adapters(tmp_path / "adapters", folder)
        adapters = [None, *(AdapterRef.at(path.name, path) for path in paths)]
        wanted = [
            replace(each, adapter=adapters[place % 3], prompt=tuple(t % VOCAB for t in each.prompt))
            for place, each in enumerate(requests(12, seed=7, max_prompt=30, max_new=6))
        ]
    else:
        model = make_seeing(tmp_path / "model", family)
        folder = model.folder
        wanted = [request_of(model, name, *one) for name, one in conversations(model).items()]
    outputs = []
    for size in (1, 2):
        backend = SamplingRankedBackend(XpuDevice(OnCpu(num_devices=2)))
        engine = StepEngine(backend, FirstComeFirstServed())
        sizes = dict(max_rows=4, cache_tokens=1024, num_threads=1)
        engine.start(request_for(folder, num_shards=size, **sizes), lambda *told: None)
        outputs.append(generate(engine, wanted))
        backend.close()
    assert outputs[0] == outputs[1]


def test_more_ranks_than_gpus_are_refused_before_anything_is_loaded(load):
    with pytest.raises(UsageError, match="--num-shard is 2, and xpu has 1 device here"):
        load(OnCpu(), num_shards=2)


def test_the_cache_takes_what_the_largest_step_leaves(load):
    found = []
    for peak in (MIB, 2 * MIB):
        driver = OnCpu()
        driver.free, driver.peak = 4 * MIB, peak
        found.append(load(driver, cache_tokens=None)[1].cache_tokens)
    assert found[0] > found[1] > 0


def test_arrays_are_copied_and_tensors_fetched_as_they_were():
    device = XpuDevice(OnCpu())
    array = np.arange(3)
    there = device.to_device(array)
    back = device.to_host(there)
    array[:] = 7
    there += 1
    assert back().tolist() == [0, 1, 2] and there.tolist() == [1, 2, 3]


def test_half_precision_is_the_checkpoints_or_what_the_chip_has(load):
    both, old = (
        XpuDevice(OnCpu(torch.float16, torch.bfloat16)),
        XpuDevice(OnCpu(torch.float16)),
    )
    assert both.default_dtype(torch.float16) is torch.float16
    assert both.default_dtype(torch.float32) is torch.bfloat16
    assert old.default_dtype(torch.bfloat16) is torch.float16
    with pytest.raises(UnsupportedModel, match="--dtype float16"):
        load(OnCpu(torch.float16), dtype=DType.BFLOAT16)


def test_options_are_refused_by_name(load):
    with pytest.raises(UsageError, match="graphs"):
        load(OnCpu(), options={"graphs": "on"})


def test_want_of_memory_is_told_from_other_errors():
    device = XpuDevice(OnCpu())
    assert device.is_out_of_memory(torch.OutOfMemoryError("XPU out of memory"))
    assert device.is_out_of_memory(RuntimeError("UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"))
    assert not device.is_out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("is_bf16_supported", (False,)),
        ("mem_get_info", (0,)),
        ("memory_reserved", (0,)),
        ("memory_allocated", (0,)),
        ("max_memory_allocated", (0,)),
        ("reset_peak_memory_stats", (0,)),
        ("empty_cache", ()),
        ("synchronize", (0,)),
        ("get_device_name", (0,)),
        ("device_count", ()),
        ("set_device", (0,)),
        ("is_available", ()),
    ],
)
def test_torch_has_what_is_called(name, arguments):
    inspect.signature(getattr(torch.xpu, name)).bind(*arguments)


def test_the_driver_names_the_first_device_and_marks_with_events():
    assert XpuDriver().torch_device == torch.device("xpu", 0)
    assert {"record", "synchronize"} <= set(dir(torch.xpu.Event))


def test_a_torch_for_something_else_and_a_missing_gpu_are_named_as_reasons(monkeypatch):
    monkeypatch.setattr(torch.version, "xpu", None)
    assert "not built for Intel GPUs" in tgi_backend().probe().reason
    monkeypatch.setattr(torch.version, "xpu", "20250302")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert "/dev/dri" in tgi_backend().probe().reason
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda index: "an Intel GPU")
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    found = tgi_backend().probe()
    assert found.available and "of 2 devices --num-shard uses more than the first" in found.notes


def test_the_plugin_imports_no_device_library():
    code = (
        "import sys; from tgi_backend_xpu import plugin; plugin.tgi_backend();"
        "bad = {'torch', 'transformers'} & set(sys.modules);"
        "sys.exit(str(bad or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    spec = tgi_backend()
    assert (spec.name, spec.contract, spec.priority) == ("xpu", CONTRACT, 100)
