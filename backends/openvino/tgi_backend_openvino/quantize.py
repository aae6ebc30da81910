"""Weights in fewer bits, by NNCF: what `--quantize` can say, and how it is done."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from tgi_core.contract import Progress
from tgi_core.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    import openvino as ov

QUANTIZATIONS = ("int8", "int4")

_GROUP = 64
"""Weights that share a scale in int4."""


def check_quantization(name: str) -> None:
    """Refuses what this backend cannot do.

    Raises:
        UsageError: naming what it can.
    """
    if name not in QUANTIZATIONS:
        raise UsageError(
            f"--quantize {name} is not known to the openvino backend; it knows "
            f"{', '.join(QUANTIZATIONS)}. TGI's names are known to --backend torch."
        )


def import_nncf() -> Any:
    """NNCF, which is imported only where it is needed: it brings scipy and scikit-learn.

    Raises:
        UsageError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    except ImportError as error:
        raise UsageError(
            f'--quantize needs NNCF ({error}): pip install "tgi-backend-openvino[quantize]", or '
            "leave the flag out."
        ) from error
    return nncf


def compress(graph: ov.Model, name: str, progress: Progress) -> ov.Model:
    """The graph with quantized weights.

    "int8": 8 bits, a scale for each output channel. "int4": 4 bits with a scale for 64 weights
    (fewer where 64 do not divide them) in four fifths of the matrix products, 8 bits in the others,
    in the head and in the embeddings.

    Raises:
        UsageError: NNCF is not installed, or the name is unknown.
        UnsupportedModel: NNCF cannot do it.
    """
    check_quantization(name)
    nncf = import_nncf()
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    if name == "int4":
        adjust = nncf.GroupSizeFallbackMode.ADJUST
        options = {
            "mode": nncf.CompressWeightsMode.INT4_ASYM,
            "group_size": _GROUP,
            "ratio": 0.8,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=adjust
            ),
        }
    progress(f"quantizing to {name}", 0, 1)
    nncf.set_log_level(logging.ERROR)
    try:
        # it draws bars and tables on standard output
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compressed: ov.Model = nncf.compress_weights(graph, **options)
    except Exception as error:  # NNCF has errors of many classes
        raise UnsupportedModel(
            f"NNCF cannot quantize this model to {name} ({error}): leave --quantize out."
        ) from error
    progress(f"quantizing to {name}", 1, 1)
    return compressed
