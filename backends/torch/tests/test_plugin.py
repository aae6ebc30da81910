"""The plugin introduces itself cheaply and judges a model by its files' names."""

import subprocess
import sys

import pytest
from tgi_backend_torch.plugin import accepts, tgi_backend

from tgi_core.contract import CONTRACT, BackendKind, ModelFiles, ModelFormat


def test_importing_the_plugin_imports_no_device_library():
    code = (
        "import sys; from tgi_backend_torch import plugin; plugin.tgi_backend();"
        "bad = {'torch', 'transformers', 'safetensors'} & set(sys.modules);"
        "sys.exit(str(bad or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_spec():
    spec = tgi_backend()
    assert (spec.name, spec.contract, spec.priority) == ("torch", CONTRACT, 0)
    assert spec.kind is BackendKind.STEP


def test_the_probe_finds_the_cpu():
    probe = tgi_backend().probe()
    assert probe.available
    assert probe.devices == ("cpu",)


def test_create_makes_a_backend_without_a_model():
    backend = tgi_backend().create()
    with pytest.raises(RuntimeError, match="no model"):
        backend.release(0)
    backend.close()


@pytest.mark.parametrize(
    ("files", "format", "accepted"),
    [
        (["config.json", "model.safetensors"], ModelFormat.SAFETENSORS, True),
        (["config.json", "x-00001-of-00002.safetensors"], ModelFormat.SAFETENSORS, True),
        (["config.json", "pytorch_model.bin"], ModelFormat.SAFETENSORS, False),
        (["model.safetensors"], ModelFormat.SAFETENSORS, False),
        (["config.json", "model.safetensors"], ModelFormat.GGUF, False),
    ],
)
def test_accepts_folders_of_safetensors(files, format, accepted, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    verdict = accepts(ModelFiles(reference="m", path=tmp_path, format=format))
    assert verdict.accepted is accepted
    assert accepted or verdict.reason
