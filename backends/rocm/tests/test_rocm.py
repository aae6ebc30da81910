"""What the ROCm backend chooses for each chip, and what it says of others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tgi_backend_rocm.chip import describe
from tgi_backend_rocm.plugin import tgi_backend

from tgi_core.contract import CONTRACT

GIB = 1 << 30
SHARED_BYTES = {"gfx90a": 64 << 10, "gfx942": 64 << 10, "gfx950": 160 << 10, "gfx1100": 64 << 10}


def chip(arch: str):
    return describe("an AMD GPU", arch, 304, 192 * GIB)


def test_mi300_keeps_fp8_of_its_own_kind_and_its_successor_everybodys():
    assert chip("gfx942:sramecc+:xnack-").cache_dtypes["fp8_e4m3fn"] is torch.float8_e4m3fnuz
    assert chip("gfx950").cache_dtypes["fp8_e4m3fn"] is torch.float8_e4m3fn
    assert not chip("gfx90a").cache_dtypes


def test_waves_of_64_threads_take_half_as_many_warps_and_choose_their_matrix_instruction():
    cdna, rdna = (chip(arch).architecture for arch in ("gfx942", "gfx1100"))
    assert cdna.prefill.warps == 4
    assert dict(cdna.extra)["matrix_instr_nonkdim"] == 16
    assert not rdna.extra


@pytest.mark.parametrize("arch", SHARED_BYTES)
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("decode", [True, False])
def test_tiles_fit_the_shared_memory(arch, dim, decode):
    tile = chip(arch).architecture.tile(decode=decode, dim=dim, itemsize=2)
    # queries stay in registers there
    assert 2 * tile.keys * tile.stages * dim * 2 <= SHARED_BYTES[arch]


def test_a_chip_that_nobody_looked_at_is_refused_by_name(monkeypatch):
    assert chip("gfx803") is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(
        name="Fiji", gcnArchName="gfx803", multi_processor_count=64, total_memory=4 * GIB
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    probe = tgi_backend().probe()
    assert not probe.available
    assert "gfx803" in probe.reason and "gfx942" in probe.reason


def test_a_torch_for_something_else_and_a_missing_gpu_are_named_as_reasons(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    assert "not built for ROCm" in tgi_backend().probe().reason
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "/dev/kfd" in tgi_backend().probe().reason


def test_the_plugin_imports_no_device_library():
    code = (
        "import sys; from tgi_backend_rocm import plugin; plugin.tgi_backend();"
        "bad = {'torch', 'transformers', 'triton'} & set(sys.modules);"
        "sys.exit(str(bad or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    spec = tgi_backend()
    assert (spec.name, spec.contract, spec.priority) == ("rocm", CONTRACT, 100)
