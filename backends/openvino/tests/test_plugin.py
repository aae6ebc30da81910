"""What the backend says before anything is loaded, and what serving imports."""

import subprocess
import sys
from pathlib import Path

import pytest
from tgi_backend_openvino.convert import convert_for_serving
from tgi_backend_openvino.plugin import accepts, probe, tgi_backend

from tests.families import Driver
from tgi_core.contract import DType, ModelFiles, ModelFormat
from tgi_core.errors import UsageError


def files(path: Path, model_format: ModelFormat = ModelFormat.SAFETENSORS) -> ModelFiles:
    return ModelFiles(reference=str(path), path=path, format=model_format)


def test_proven_types_are_accepted(family_folder):
    assert accepts(files(family_folder("llama"))).accepted
    verdict = accepts(files(family_folder("gemma2")))
    assert not verdict.accepted
    assert "gemma2" in verdict.reason


def test_other_formats_are_not(tmp_path):
    assert not accepts(files(tmp_path / "model.gguf", ModelFormat.GGUF)).accepted
    assert not accepts(files(tmp_path, ModelFormat.OTHER)).accepted


def test_the_probe_names_devices_and_version():
    found = probe()
    assert found.available
    assert "CPU" in found.devices
    assert any(note.startswith("openvino ") for note in found.notes)


def test_introducing_itself_imports_no_device_library():
    code = (
        "import sys; from tgi_backend_openvino.plugin import tgi_backend; tgi_backend();"
        "assert not {'openvino', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.long
def test_nobody_is_told_what_is_converted():
    code = (
        "import tgi_backend_openvino.trace, tgi_backend_openvino.quantize\n"
        "from nncf.telemetry.wrapper import telemetry\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__.endswith('telemetry_stub'), telemetry_utils.tm\n"
        "assert type(telemetry).__name__ == 'MagicMock', telemetry\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_serving_a_converted_folder_imports_no_torch(family_folder, tmp_path):
    target = tmp_path / "converted"
    convert_for_serving(family_folder("llama"), target, None, lambda *_: None)
    code = (
        "import sys; from pathlib import Path\n"
        "from tgi_backend_openvino.plugin import tgi_backend\n"
        "from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat\n"
        "path = Path(sys.argv[1])\n"
        "model = ModelFiles(reference='m', path=path, format=ModelFormat.OTHER)\n"
        "backend = tgi_backend().create()\n"
        "backend.load(LoadRequest(model=model, cache_tokens=256), lambda *a: None)\n"
        "backend.warm_up(lambda *a: None)\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=True)


@pytest.mark.parametrize(
    ("wishes", "error", "words"),
    [
        ({"options": {"colour": "red"}}, UsageError, "no option colour; it has cache_dir"),
        ({"quantize": "awq"}, UsageError, "int8, int4"),
        ({"kv_cache_dtype": "u7"}, UsageError, "it knows u8"),
        ({"device": "tpu"}, UsageError, "no device TPU here; it finds CPU"),
        ({"num_threads": 0}, UsageError, "at least 1"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(wishes, error, words, family_folder, load):
    with pytest.raises(error, match=words):
        load(family_folder("llama"), **wishes)


@pytest.mark.parametrize(
    "dtype", [DType.BFLOAT16, pytest.param(DType.FLOAT16, marks=pytest.mark.long)]
)
def test_a_type_that_the_cpu_lacks_becomes_float32(dtype, family_folder, load, monkeypatch, caplog):
    model = family_folder("llama")
    monkeypatch.setattr(
        "tgi_backend_openvino.device.computes", lambda core, device, dtype: dtype is DType.FLOAT32
    )
    Driver(load(model, dtype=dtype), model).check({0: [5, 6, 7]})
    assert f"no instructions for {dtype.value}" in caplog.text


def test_it_comes_before_the_torch_backend():
    assert tgi_backend().priority > 0


def test_keys_and_values_can_be_kept_in_fewer_bits(family_folder, load):
    """Tokens of a row of 8 bits and their scale take less than in 32."""
    whole, small = (
        load(family_folder("llama"), cache_tokens=1024, kv_cache_dtype=dtype)
        for dtype in (None, "u8")
    )
    for backend in (whole, small):
        assert backend.reserve(0, 256)
    assert small.stats().memory_bytes < whole.stats().memory_bytes
