"""Finds models that lie on this machine: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from tgi_core.contract import ModelFiles, ModelFormat
from tgi_core.errors import BadModel, ModelNotFound
from tgi_core.plugin import hookimpl


@hookimpl
def tgi_model_source(reference: str) -> ModelFiles | None:
    """Takes every reference that is a path or looks like one.

    Raises:
        ModelNotFound: it looks like a path, and nothing is there.
        BadModel: a file or folder that can be no model.
    """
    path = Path(reference).expanduser()
    if not path.exists():
        # org/model/file.gguf may be on the hub
        gguf = path.suffix == ".gguf" and reference.count("/") < 2
        if path.is_absolute() or reference.startswith((".", "~")) or gguf:
            raise ModelNotFound(f"there is no file or folder {reference!r}: check the path.")
        return None
    return ModelFiles(reference=reference, path=path.resolve(), format=model_format(path))


@hookimpl
def tgi_model_heads(reference: str) -> ModelFiles | None:
    """The same: what lies here need not be fetched, and nobody has to read it."""
    return tgi_model_source(reference)


def model_format(path: Path) -> ModelFormat:
    """How the model at a path lies there.

    Raises:
        BadModel: a file or folder that can be no model.
    """
    if path.is_file():
        if path.suffix != ".gguf":
            raise BadModel(
                f"{path} is a file, but no .gguf: give the folder that holds config.json, or a "
                "GGUF file."
            )
        return ModelFormat.GGUF
    if (path / "config.json").is_file():
        has_weights = any(path.glob("*.safetensors"))
        return ModelFormat.SAFETENSORS if has_weights else ModelFormat.OTHER
    if (path / "adapter_config.json").is_file():
        return ModelFormat.ADAPTER
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        names = ", ".join(p.name for p in ggufs[:4])
        raise BadModel(f"{path} holds GGUF files ({names}): give the path of one of them.")
    raise BadModel(f"{path} holds no config.json, so it is no Hugging Face model folder.")
