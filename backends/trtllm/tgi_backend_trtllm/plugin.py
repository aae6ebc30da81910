"""The entry point: introduces the backend without importing TensorRT-LLM."""

from __future__ import annotations

from tgi_core.contract import (
    BackendKind,
    BackendSpec,
    Engine,
    ModelFiles,
    ModelFormat,
    Probe,
    Verdict,
)
from tgi_core.plugin import hookimpl


def accepts(files: ModelFiles) -> Verdict:
    """Whether the model is a folder with config.json and safetensors files."""
    if files.path.is_dir() and any(files.path.glob("*.engine")):
        return Verdict(
            False,
            f"{files.path} holds engines that trtllm-build made: serve the model's own folder, "
            "which TensorRT-LLM's PyTorch flow takes without building",
        )
    if files.format is not ModelFormat.SAFETENSORS:
        return Verdict(False, "the trtllm backend reads folders of safetensors files")
    if not (files.path / "config.json").is_file():
        return Verdict(False, f"{files.path} holds no config.json")
    return Verdict(True)


def probe() -> Probe:
    """Looks for the library and a GPU; imports the library."""
    from tgi_backend_trtllm.probe import probe_trtllm

    return probe_trtllm()


def create() -> Engine:
    """An engine with no model in it yet."""
    from tgi_backend_trtllm.engine import TrtLlmEngine

    return TrtLlmEngine()


@hookimpl
def tgi_backend() -> BackendSpec:
    """After the CUDA backend, whose requests can ask for more; `--backend trtllm` chooses it."""
    return BackendSpec(
        name="trtllm",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        kind=BackendKind.ENGINE,
        priority=90,
        description="TensorRT-LLM with its own in-flight batching, on NVIDIA GPUs",
        shards=True,
    )
