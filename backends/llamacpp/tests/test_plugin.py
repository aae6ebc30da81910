"""The plugins are found, import nothing heavy, and take GGUF files only."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tgi_backend_llamacpp import plugin, vocabulary_plugin

from tgi_core.contract import CONTRACT, ModelFiles, ModelFormat, check_contract


def files(path: Path, format: ModelFormat) -> ModelFiles:
    return ModelFiles(reference=str(path), path=path, format=format)


def test_importing_the_plugins_imports_no_llama_cpp() -> None:
    code = (
        "import sys; from tgi_backend_llamacpp import plugin, vocabulary_plugin;"
        "plugin.tgi_backend();"
        "assert not {'llama_cpp', 'torch', 'transformers'} & set(sys.modules), sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_entry_points_name_the_modules() -> None:
    (backend,) = entry_points(group="tgi.backends", name="llamacpp")
    assert backend.load() is plugin
    (vocabulary,) = entry_points(group="tgi.plugins", name="llamacpp-vocabulary")
    assert vocabulary.load() is vocabulary_plugin


def test_the_backend_takes_gguf_and_says_why_not(tiny: Path) -> None:
    spec = plugin.tgi_backend()
    check_contract(spec.contract, spec.name, "tgi-backend-llamacpp")
    assert (spec.name, spec.priority, CONTRACT[0]) == ("llamacpp", 0, 1)
    assert spec.accepts(files(tiny, ModelFormat.GGUF)).accepted
    refused = spec.accepts(files(tiny.parent, ModelFormat.SAFETENSORS))
    assert not refused.accepted and "GGUF" in refused.reason
    assert spec.probe().available
    assert hasattr(spec.create(), "step")


def test_the_tokenizer_hook_leaves_other_formats_alone(tiny: Path) -> None:
    assert vocabulary_plugin.tgi_load_tokenizer(files(tiny, ModelFormat.OTHER)) is None
    loaded = vocabulary_plugin.tgi_load_tokenizer(files(tiny, ModelFormat.GGUF))
    assert loaded is not None and loaded.vocab_size == 320
