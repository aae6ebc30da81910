"""Which layout a model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tgi_core.errors import BadModel
from tgi_core.images.layouts.facts import Facts, read_facts
from tgi_core.images.layouts.gemma3 import Gemma3Layout
from tgi_core.images.layouts.idefics import IdeficsLayout
from tgi_core.images.layouts.idefics2 import Idefics2Layout
from tgi_core.images.layouts.idefics3 import Idefics3Layout
from tgi_core.images.layouts.layout import ImageLayout
from tgi_core.images.layouts.llava_next import LlavaNextLayout
from tgi_core.images.layouts.mllama import MllamaLayout
from tgi_core.images.layouts.paligemma import PaliGemmaLayout
from tgi_core.images.layouts.qwen2_vl import Qwen2VLLayout

_LAYOUTS: Mapping[str, Callable[[Facts], ImageLayout]] = {
    "gemma3": Gemma3Layout.of,
    "idefics": IdeficsLayout.of,
    "idefics2": Idefics2Layout.of,
    "idefics3": Idefics3Layout.of,
    "llava_next": LlavaNextLayout.of,
    "mllama": MllamaLayout.of,
    "paligemma": PaliGemmaLayout.of,
    "qwen2_5_vl": Qwen2VLLayout.of,
    "qwen2_vl": Qwen2VLLayout.of,
    "smolvlm": Idefics3Layout.of,
}
"""By `model_type` of config.json."""


def layout_of(folder: Path, bos_token: str | None) -> ImageLayout | None:
    """The layout of the model in a folder; None if it is of no family that is known here.

    Raises:
        BadModel: its files do not say what a layout needs.
    """
    facts = read_facts(folder, bos_token)
    kind = str(facts.config.get("model_type"))
    if kind not in _LAYOUTS:
        return None
    try:
        return _LAYOUTS[kind](facts)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadModel(
            f"config.json or preprocessor_config.json of {folder} does not say what images of "
            f"the type {kind} need ({error!r})."
        ) from error
