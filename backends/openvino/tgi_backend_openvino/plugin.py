"""The entry point: introduces the backend without importing OpenVINO."""

from __future__ import annotations

from pathlib import Path

from tgi_backend_openvino.families import is_exported, refusal
from tgi_backend_openvino.form import MANIFEST
from tgi_core.contract import (
    BackendSpec,
    ModelFiles,
    ModelFormat,
    Probe,
    Progress,
    StepBackend,
    Verdict,
)
from tgi_core.plugin import hookimpl


def accepts(files: ModelFiles) -> Verdict:
    """Whether the model was converted, exported by others, or is of a proven type."""
    if (files.path / MANIFEST).is_file():
        return Verdict(True)
    if files.format is not ModelFormat.SAFETENSORS and not is_exported(files.path):
        return Verdict(False, "it serves Hugging Face folders, converted and exported ones")
    if (files.path / "modules.json").is_file():
        return Verdict(False, "the model is made for embeddings, which this backend does not give")
    reason = refusal(files.path)
    return Verdict(reason is None, reason or "")


def probe() -> Probe:
    """Looks for OpenVINO and its devices; imports it."""
    from tgi_backend_openvino.probe import probe_devices

    return probe_devices()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_openvino.backend import OpenVinoBackend

    return OpenVinoBackend()


def convert(model: ModelFiles, target: Path, quantize: str | None, progress: Progress) -> None:
    """Converts ahead of time; imports torch."""
    from tgi_backend_openvino.convert import convert_for_serving

    convert_for_serving(model.path, target, quantize, progress)


@hookimpl
def tgi_backend() -> BackendSpec:
    """The fast way on CPUs: before the torch backend where both can serve a model."""
    return BackendSpec(
        name="openvino",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=10,
        description="transformers models on OpenVINO's paged attention",
        convert=convert,
    )
