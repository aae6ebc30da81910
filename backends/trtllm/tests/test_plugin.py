"""How the backend introduces itself where its library, or a GPU, is missing."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
from tgi_backend_trtllm.plugin import accepts, tgi_backend

from tgi_core.contract import BackendKind, ModelFiles, ModelFormat
from tgi_core.errors import UsageError
from tgi_core.testing.examine import run


def test_it_is_an_engine_that_shares_models_and_comes_after_cuda() -> None:
    spec = tgi_backend()
    assert (spec.name, spec.kind, spec.shards) == ("trtllm", BackendKind.ENGINE, True)
    assert 0 < spec.priority < 100


def test_the_simulated_machine_has_two_gpus() -> None:
    probe = tgi_backend().probe()
    assert probe.available and probe.devices == ("cuda:0", "cuda:1")
    assert "1.2.1" in probe.notes[0]


def test_a_missing_library_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if "simulators" not in folder])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, name)
    reason = tgi_backend().probe().reason
    assert "nvcr.io/nvidia/tensorrt-llm" in reason and "pypi.nvidia.com" in reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tensorrt_llm.__version__", "0.21.0", "0.21.0"),
        ("tgi_backend_trtllm.vendor.get_device_count", lambda: 0, "--gpus all"),
    ],
)
def test_another_release_and_a_missing_gpu_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, words: str
) -> None:
    monkeypatch.setattr(name, value)
    probe = tgi_backend().probe()
    assert not probe.available and words in probe.reason


def test_engines_of_the_older_flow_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rank0.engine").touch()
    verdict = accepts(ModelFiles(reference="x", path=tmp_path, format=ModelFormat.OTHER))
    assert not verdict.accepted and "trtllm-build" in verdict.reason


def test_the_command_that_examines_backends_asks_for_the_engines_own_tests() -> None:
    with pytest.raises(UsageError, match="EngineConformance"):
        run(Namespace(backend="trtllm", tests=None, model=None, backend_option=[]))
