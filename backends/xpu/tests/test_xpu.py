"""What the backend does on whatever its driver drives, and what it calls of torch.xpu."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from tgi_backend_torch.on_device import SamplingTorchBackend
from tgi_backend_xpu.device import XpuDevice
from tgi_backend_xpu.driver import XpuDriver
from tgi_backend_xpu.plugin import tgi_backend

from tests.families import FAMILIES, Driver, check_any_batch, make_model, request_for
from tgi_core.contract import CONTRACT, DType
from tgi_core.errors import UnsupportedModel, UsageError

MIB = 1 << 20


class OnCpu:
    """Satisfies the backend's `Driver`: memory and queue of a GPU that the CPU plays."""

    torch_device = torch.device("cpu")

    def __init__(self, *halves: torch.dtype) -> None:
        self.dtypes = frozenset({torch.float32, *halves})
        self.free, self.peak = 64 * MIB, MIB

    def free_bytes(self) -> int:
        return self.free

    def peak_bytes(self, run) -> int:
        run()
        return self.peak

    def fetch(self, source):
        copy = source.clone()  # what the source becomes later is not what was asked for

        return lambda: copy

    def synchronize(self) -> None:
        pass


@pytest.fixture
def load(tmp_path):
    folder = make_model(tmp_path / "model", FAMILIES["llama"]())

    def made(driver, **wishes):
        backend = SamplingTorchBackend(XpuDevice(driver))
        limits = backend.load(request_for(folder, **wishes), lambda *told: None)
        return backend, limits, folder

    return made


def test_logits_are_those_of_a_whole_forward_in_any_batch(load):
    backend, limits, folder = load(OnCpu(), device="xpu", max_rows=6, max_sequence_tokens=160)
    assert (limits.device, limits.steps_in_flight) == ("xpu", 2)
    check_any_batch(Driver(backend, folder))


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
    assert found.available and "of 2 devices the first is used" in found.notes


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
