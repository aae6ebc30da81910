"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from pathlib import Path

from tgi_backend_torch.sentences import embeds_only
from tgi_core.contract import (
    BackendSpec,
    LoadRequest,
    MemoryPlan,
    ModelFiles,
    ModelFormat,
    Probe,
    Progress,
    QuantizeWish,
    StepBackend,
    Verdict,
)
from tgi_core.plugin import hookimpl


def accepts(files: ModelFiles) -> Verdict:
    """Whether the model is a folder with config.json and safetensors files, and generates."""
    verdict = has_safetensors(files)
    if verdict.accepted and embeds_only(files.path):
        return Verdict(False, "the model only embeds; the backend torch-encoder serves it")
    return verdict


def has_safetensors(files: ModelFiles) -> Verdict:
    """Whether the model is a folder with config.json and safetensors files."""
    if files.format not in (ModelFormat.SAFETENSORS, ModelFormat.OTHER):
        return Verdict(False, "the torch backend reads folders of safetensors files")
    if not (files.path / "config.json").is_file():
        return Verdict(False, f"{files.path} holds no config.json")
    if not any(files.path.glob("*.safetensors")):
        return Verdict(
            False,
            f"{files.path} holds no *.safetensors file. Pickled weights (pytorch_model.bin) are "
            "never read when serving: `hf download` fetches them, and "
            "`tgi convert FOLDER TARGET --backend torch` converts the folder",
        )
    return Verdict(True)


def probe() -> Probe:
    """Looks for torch and transformers; imports them."""
    from tgi_backend_torch.probe import probe_cpu

    return probe_cpu()


def plan(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
    """What a model will take; imports torch."""
    from tgi_backend_torch.plan import plan_model

    return plan_model(request, memory_bytes)


def convert(model: ModelFiles, target: Path, quantize: str | None, progress: Progress) -> None:
    """Pickled weights to safetensors; see `Converter`."""
    from tgi_backend_torch.pickled import convert_pickled

    convert_pickled(model.path, target, quantize, progress)


def quantize(model: ModelFiles, target: Path, wish: QuantizeWish, progress: Progress) -> None:
    """A GPTQ checkpoint; see `Quantizer`."""
    from tgi_backend_torch.quant.make_gptq import quantize as make

    make(model, target, wish, progress)


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_torch.ranks import RankedBackend

    return RankedBackend()


@hookimpl
def tgi_backend() -> BackendSpec:
    """The reference backend: any CPU, lowest priority."""
    return BackendSpec(
        name="torch",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=0,
        description="transformers models on the CPU",
        shards=True,
        plan=plan,
        convert=convert,
        quantize=quantize,
    )
