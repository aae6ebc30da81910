"""Promises of the plugin module: light, well-formed, and an answer to whatever it is asked."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tgi_core.contract import (
    BackendKind,
    BackendSpec,
    Engine,
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Probe,
    StepBackend,
    Verdict,
    check_contract,
)
from tgi_core.errors import SetupError
from tgi_core.testing.conformance.device import ignore_progress
from tgi_core.testing.conformance.promises import PluginUnderTest

_DEVICE_LIBRARIES = (
    *("torch", "transformers", "llama_cpp", "openvino", "optimum", "tensorrt_llm", "jax"),
    *("tensorflow", "onnxruntime", "mlx", "torch_xla", "triton"),
)
_PUBLIC = (
    "tgi_core.contract",
    "tgi_core.errors",
    "tgi_core.plugin.hookimpl",
    "tgi_core.sampling.reference",
    "tgi_core.sampling.seeds",
    "tgi_core.testing",
)
"""What a backend may import of core. `testing` is for its tests."""

_IMPORT_ONLY = """
import sys
sys.path[:] = {path!r}
import importlib
importlib.import_module({module!r}).tgi_backend()
print(*sorted(set({libraries!r}) & set(sys.modules)))
"""


class IntroductionPromises(PluginUnderTest):
    """What core learns of a backend before it loads a model with it."""

    def test_plugin_module_imports_no_device_library(self) -> None:
        """Listing the installed backends stays cheap, and a broken driver hurts nobody else."""
        code = _IMPORT_ONLY.format(
            path=sys.path, module=self._module_name(), libraries=_DEVICE_LIBRARIES
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert not run.stdout.split(), f"imported without need: {run.stdout.strip()}"

    def test_package_imports_only_the_public_part_of_core(self) -> None:
        """Contract, errors, the hook marker and what defines sampling; the rest may change."""
        package = self.package or self._module_name().partition(".")[0]
        forbidden = [
            f"{file}:{line}: {name}"
            for file in _source_files(package)
            for line, name in _imports(file)
            if name.partition(".")[0] == "tgi_core"
            and not any(name == public or name.startswith(public + ".") for public in _PUBLIC)
        ]
        assert not forbidden, "not for backends: " + ", ".join(forbidden)

    def test_spec_is_well_formed(self, spec: BackendSpec) -> None:
        """A name, and a version of the contract that this core speaks."""
        assert isinstance(spec, BackendSpec)
        assert spec.name and spec.name == spec.name.strip().lower()
        check_contract(spec.contract, spec.name, "the distribution under test")

    def test_probe_never_raises(self, spec: BackendSpec) -> None:
        """It tells what is there, or why nothing is; twice the same."""
        probe = spec.probe()
        assert isinstance(probe, Probe)
        usual = probe.available and not probe.by_name_only
        assert usual or probe.reason, "say why it is not available and what to do"
        assert probe == spec.probe()

    def test_accepts_answers_for_any_path(
        self, spec: BackendSpec, load_request: LoadRequest, tmp_path: Path
    ) -> None:
        """A file or folder that makes no sense is refused with a reason, never with an error."""
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "config.json").write_text("{")
        strange = [
            ModelFiles(reference=str(path), path=path, format=kind)
            for path in (tmp_path / "nothing", damaged)
            for kind in ModelFormat
        ]
        for files in (load_request.model, *strange):
            verdict = spec.accepts(files)
            assert isinstance(verdict, Verdict)
            assert verdict.accepted or verdict.reason, "say why the model is refused"

    def test_unknown_options_are_refused(
        self, spec: BackendSpec, load_request: LoadRequest
    ) -> None:
        """A misspelt `--backend-option` is an error, not a wish that nobody hears."""
        options = {**load_request.options, "no-such-option": "1"}
        wrong = replace(load_request, options=options)
        opened = spec.create()
        with pytest.raises(SetupError):
            match spec.kind:
                case BackendKind.STEP:
                    cast("StepBackend", opened).load(wrong, ignore_progress)
                case BackendKind.ENGINE:
                    cast("Engine", opened).start(wrong, ignore_progress)
            opened.close()

    def _module_name(self) -> str:
        if isinstance(self.module, str):
            return self.module
        pytest.skip("module is an object and not the name of a module")


def _source_files(package: str) -> list[Path]:
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None, f"{package} cannot be imported"
    if found.submodule_search_locations is None:
        return [Path(found.origin)]
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from tgi_core import engine` imports tgi_core.engine
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
