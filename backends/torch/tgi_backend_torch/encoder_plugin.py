"""The entry point of the backend for models that only embed; imports no torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import has_safetensors, probe
from tgi_backend_torch.sentences import embeds_only
from tgi_core.contract import BackendSpec, ModelFiles, StepBackend, Verdict
from tgi_core.plugin import hookimpl


def accepts(files: ModelFiles) -> Verdict:
    """Whether the folder holds a model without a head that generates."""
    verdict = has_safetensors(files)
    if verdict.accepted and not embeds_only(files.path):
        return Verdict(False, "the model generates; this backend only embeds")
    return verdict


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_torch.encoder import EncoderBackend

    return EncoderBackend()


@hookimpl
def tgi_backend() -> BackendSpec:
    """The backend of encoders: any CPU."""
    return BackendSpec(
        name="torch-encoder",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        description="transformers models that only embed, on the CPU",
    )
