"""Weights in fewer bits, by NNCF: what `--quantize` can say, and how it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgi_core.contract import Progress
from tgi_core.errors import UsageError

if TYPE_CHECKING:
    import openvino as ov

QUANTIZATIONS = ("int8", "int4")


def check_quantization(name: str) -> None:
    """Refuses what this backend cannot do.

    Raises:
        UsageError: naming what it can.
    """
    if name not in QUANTIZATIONS:
        raise UsageError(
            f"--quantize {name} is not known to the openvino backend; it knows "
            f"{', '.join(QUANTIZATIONS)}."
        )


def compress(graph: ov.Model, name: str, progress: Progress) -> ov.Model:
    """The graph with quantized weights of its matrix products; embeddings in int8 at least.

    Raises:
        UsageError: NNCF is not installed, or the name is unknown.
    """
    check_quantization(name)
    try:
        import nncf
    except ImportError as error:
        raise UsageError(
            f"--quantize needs NNCF ({error}): pip install nncf, or leave the flag out."
        ) from error
    progress(f"quantizing to {name}", 0, 1)
    if name == "int8":
        compressed = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        compressed = nncf.compress_weights(
            graph, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=64, ratio=0.8
        )
    progress(f"quantizing to {name}", 1, 1)
    return compressed
