"""The plugin introduces itself cheaply, and says why it cannot be used here."""

import subprocess
import sys

import pytest
import torch
from tgi_backend_cuda.plugin import tgi_backend

from tgi_core.contract import CONTRACT


def test_importing_the_plugin_imports_no_device_library():
    code = (
        "import sys; from tgi_backend_cuda import plugin; plugin.tgi_backend();"
        "bad = {'torch', 'transformers', 'triton'} & set(sys.modules);"
        "sys.exit(str(bad or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_spec_comes_before_those_of_cpus():
    spec = tgi_backend()
    assert (spec.name, spec.contract, spec.priority) == ("cuda", CONTRACT, 100)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_torch_without_cuda_is_named_as_the_reason():
    probe = tgi_backend().probe()
    assert not probe.available
    assert "not built for CUDA" in probe.reason


def test_a_missing_gpu_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    probe = tgi_backend().probe()
    assert not probe.available
    assert "nvidia-smi" in probe.reason


def test_a_gpu_that_is_too_old_is_named_with_its_capability(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla P40")
    probe = tgi_backend().probe()
    assert not probe.available
    assert "Tesla P40" in probe.reason and "6.1" in probe.reason
