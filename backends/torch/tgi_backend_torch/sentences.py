"""What a folder says of embedding texts, in sentence-transformers' files. Imports no torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tgi_core.contract import Embedding, Pooling
from tgi_core.errors import BadModel, UnsupportedModel

logger = logging.getLogger(__name__)

_MODULES = "modules.json"
_DEFAULT_POOLING_FOLDER = "1_Pooling"
_HARMLESS = {"Transformer", "Pooling", "Normalize"}
"""Kinds of modules that change nothing but length behind the pooling."""

_POOLINGS = {
    "pooling_mode_cls_token": Pooling.FIRST,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_NAMES = {"cls": Pooling.FIRST, "mean": Pooling.MEAN, "lasttoken": Pooling.LAST}
_GENERATING = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "MTModel")


def embeds_only(folder: Path) -> bool:
    """Whether a folder holds a model without a head that generates."""
    architectures = _optional_object(folder / "config.json").get("architectures")
    if isinstance(architectures, list) and architectures:
        name = str(architectures[0])
        if name.endswith(_GENERATING):
            return False
        return name.endswith(("Model", "ForMaskedLM"))
    return (folder / _MODULES).is_file()


def embedding_of(folder: Path, hidden_size: int | None) -> Embedding | None:
    """How a model that generates embeds, if it can: by its last token, or as its folder says."""
    if hidden_size is None:
        return None
    try:
        pooling = read_pooling(folder)
    except UnsupportedModel as error:
        logger.warning("it generates, but cannot embed: %s", error)
        return None
    return Embedding(size=hidden_size, pooling=pooling or Pooling.LAST)


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling that the folder asks for; None if it says nothing.

    Raises:
        BadModel: its files make no sense.
        UnsupportedModel: it wants another pooling, or something behind it.
    """
    modules = folder / _MODULES
    place = _DEFAULT_POOLING_FOLDER
    if modules.is_file():
        for module in _read(modules, list):
            kind = str(module.get("type", "")).rpartition(".")[2]
            if kind not in _HARMLESS:
                raise UnsupportedModel(
                    f"{modules} asks for a module of the kind {kind}; the torch backend embeds "
                    "by pooling alone."
                )
            if kind == "Pooling":
                place = str(module.get("path", place))
    path = folder / place / "config.json"
    return _pooling(path) if path.is_file() else None


def longest_text(folder: Path) -> int | None:
    """Tokens in the longest text that the model was made for, if the folder says so."""
    most = _optional_object(folder / "sentence_bert_config.json").get("max_seq_length")
    return most if isinstance(most, int) and most > 0 else None


def _pooling(path: Path) -> Pooling:
    config = _read(path, dict)
    named = config.get("pooling_mode")
    wanted = [named] if isinstance(named, str) else named
    if wanted is None:
        wanted = [name for name, on in config.items() if name.startswith("pooling_mode_") and on]
    known = {**_POOLINGS, **_NAMES}
    if len(wanted) != 1 or wanted[0] not in known:
        raise UnsupportedModel(
            f"{path} asks for the pooling {', '.join(map(str, wanted)) or 'of no kind'}; the torch "
            "backend pools the first token, the last one, or the mean of all."
        )
    return known[wanted[0]]


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    if not isinstance(content, kind):
        raise BadModel(f"{path} does not hold a JSON {kind.__name__}.")
    return content


def _optional_object(path: Path) -> dict[str, Any]:
    """What a file holds; nothing if it is absent or damaged, which others complain of."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
