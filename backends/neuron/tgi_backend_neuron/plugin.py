"""The entry point: introduces the backend without importing optimum-neuron."""

from __future__ import annotations

from tgi_backend_neuron.compiled import FAMILIES, family_of, is_compiled, is_quantized
from tgi_core.contract import BackendSpec, ModelFiles, ModelFormat, Probe, StepBackend, Verdict
from tgi_core.errors import BadModel
from tgi_core.plugin import hookimpl


def accepts(files: ModelFiles) -> Verdict:
    """Whether the folder is compiled, or of a family that can be."""
    if is_compiled(files.path):
        return Verdict(True)
    if files.format is not ModelFormat.SAFETENSORS:
        return Verdict(False, "it serves compiled models, and Hugging Face folders once compiled")
    try:
        family = family_of(files.path)
    except BadModel as error:
        return Verdict(False, str(error))
    if family not in FAMILIES:
        return Verdict(False, f"optimum-neuron does not compile {family}")
    if is_quantized(files.path):
        return Verdict(False, "optimum-neuron compiles no quantized weights")
    return Verdict(True)


def probe() -> Probe:
    """Looks for optimum-neuron and for cores; imports it."""
    from tgi_backend_neuron.probe import probe_cores

    return probe_cores()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_neuron.backend import NeuronBackend

    return NeuronBackend()


@hookimpl
def tgi_backend() -> BackendSpec:
    """Inferentia2 and Trainium."""
    return BackendSpec(
        name="neuron",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        description="models compiled for AWS Inferentia2 and Trainium",
        shards=True,
    )
