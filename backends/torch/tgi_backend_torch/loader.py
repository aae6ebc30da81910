"""From a model folder to a transformers model whose attention is ours. Knows no cache."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from tgi_backend_torch.cross_attention import connect_cross
from tgi_backend_torch.falcon import has_ours
from tgi_backend_torch.vision import attention_of, seeing_class
from tgi_core.contract import Progress
from tgi_core.errors import BadModel, UnsupportedModel


class Tensors(Protocol):
    """Where weights come from: a `Checkpoint`, usually."""

    def read(self, dtype: torch.dtype, progress: Progress) -> dict[str, Tensor]:
        """All of them; see `Checkpoint.read`."""
        ...


_LAYER_TYPES = {"full_attention", "sliding_attention"}
_MOST_LAYERS = 10_000
"""transformers makes a list of the layers before anybody could compare them with the weights."""


def read_config(folder: Path) -> PretrainedConfig:
    """Reads config.json.

    Raises:
        BadModel: it is absent, no JSON, or makes no sense.
        UnsupportedModel: transformers does not know the model's type.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise BadModel(f"{path} does not say which model_type it describes.")
    model_type = raw["model_type"]
    if model_type not in CONFIG_MAPPING:
        remedy = (
            "its own code (auto_map) is never run"
            if "auto_map" in raw
            else "a newer transformers may know it"
        )
        raise UnsupportedModel(
            f"transformers {transformers.__version__} does not know the model type "
            f"{model_type!r} of {path}; {remedy}."
        )
    for part in (raw, *(part for part in raw.values() if isinstance(part, dict))):
        for name, value in part.items():
            of_layers = name.endswith(("layer", "layers"))
            if of_layers and isinstance(value, int) and value > _MOST_LAYERS:
                raise BadModel(f"{path} says that {name} is {value}, which no model has.")
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # configuration classes raise whatever their checks raise
        raise BadModel(f"{path} makes no valid {model_type} configuration ({error}).") from error
    # with it transformers would look for a library that reads such weights; `quant` does
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class for text generation.

    Raises:
        UnsupportedModel: there is none, or it needs a newer transformers.
    """
    seeing = seeing_class(config)
    if seeing is not None:
        return seeing
    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    kind = "causal"
    if config.is_encoder_decoder:
        classes, kind = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, "sequence-to-sequence"
    if type(config) not in classes:
        raise UnsupportedModel(
            f"transformers {transformers.__version__} has no {kind} language model of type "
            f"{config.model_type}."
        )
    cls: type[PreTrainedModel] = classes[type(config)]
    return cls


def why_not_flat(cls: type[PreTrainedModel], config: PretrainedConfig) -> str | None:
    """Why a model cannot run in flat batches with our attention, as far as its class tells."""
    text = config.get_text_config()
    if config.is_encoder_decoder:
        return f"{cls.__name__} has an encoder"
    if getattr(cls, "_is_stateful", False):
        return f"{cls.__name__} keeps a recurrent state"
    strange = set(getattr(text, "layer_types", None) or ()) - _LAYER_TYPES
    if strange:
        return f"{cls.__name__} has layers of the kind {', '.join(sorted(strange))}"
    if not (cls._can_set_attn_implementation() or has_ours(config)):
        return f"{cls.__name__} computes attention by itself"
    parameters = inspect.signature(cls.forward).parameters
    for parameter in ("input_ids", "position_ids"):
        if parameter not in parameters:
            return f"{cls.__name__} takes no {parameter}"
    return None


def flat_model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class for text generation, of a model that can run in flat batches.

    Raises:
        UnsupportedModel: there is none, or it cannot; says why.
    """
    cls = model_class(config)
    fault = why_not_flat(cls, config)
    if fault is not None:
        raise UnsupportedModel(f"{fault}, so our attention cannot be put under it.")
    return cls


def own_attention(cls: type[PreTrainedModel]) -> str:
    """The attention that transformers would choose for a model."""
    return "sdpa" if cls._supports_sdpa else "eager"


def attention_for(cls: type[PreTrainedModel], config: PretrainedConfig) -> str | None:
    """Name of transformers' attention for a model that cannot have ours; else None."""
    return None if why_not_flat(cls, config) is None else own_attention(cls)


def load_model(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Tensors,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    *,
    attention: str | None = None,
    **arguments: Any,
) -> PreTrainedModel:
    """Fills the class with the checkpoint's weights, in `dtype`, on `device`, in eval mode.

    Args:
        cls: the class.
        config: the model's.
        checkpoint: its weights.
        dtype: what to compute in.
        device: where.
        progress: told of each tensor.
        attention: name of transformers' attention function; None is ours, where text is.
        arguments: of the class's constructor.

    Raises:
        BadModel: the files lack tensors, or hold some of the wrong shape.
        UnsupportedModel: as the class says when it is constructed.
    """
    tensors = checkpoint.read(dtype, progress)
    with quiet():
        try:
            loaded: Any = cls.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                attn_implementation=attention or attention_of(config),
                output_loading_info=True,
                local_files_only=True,
                **arguments,
            )
        except UnsupportedModel:
            raise
        except Exception as error:  # transformers has no error class for what weights lack
            raise BadModel(
                f"the weights do not make a {cls.__name__}: {str(error).strip()}"
            ) from error
    model, info = loaded
    # transformers would have drawn these at random and said so in a log line
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise BadModel(
            f"the weights lack {len(missing)} tensors that {cls.__name__} needs: {shown}."
        )
    if info["mismatched_keys"] or info.get("error_msgs"):
        raise BadModel(
            f"some tensors do not have the shape that config.json gives them: "
            f"{sorted(map(str, info['mismatched_keys']))[:5]} {info.get('error_msgs') or ''}"
        )
    placed: PreTrainedModel = model.to(device).eval()
    if attention is None:
        connect_cross(placed)
    return placed


def empty_model(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: str | None = None,
) -> PreTrainedModel:
    """What `load_model` makes, without its weights; to be called where tensors take no memory."""
    construct: Any = cls._from_config
    with quiet():
        model: PreTrainedModel = construct(
            config, dtype=dtype, attn_implementation=attention or attention_of(config)
        )
    if attention is None:
        connect_cross(model)
    return model.eval()


def longest_sequence(config: PretrainedConfig, *, windowed: bool) -> int | None:
    """Positions that the model was made for, and that a batch can hold beside other rows.

    Args:
        config: the model's.
        windowed: whether any of its layers told the attention interface of a sliding window. A
            window that only the model's own mask knows limits the sequence, to where it has no
            effect yet.
    """
    text = config.get_text_config()
    trained: int | None = getattr(text, "max_position_embeddings", None)
    if trained is None:
        trained = getattr(text, "max_seq_len", None)  # MPT's word for it
    window = getattr(text, "sliding_window", None)
    slides = isinstance(window, int) and getattr(text, "use_sliding_window", True)
    kinds = getattr(text, "layer_types", None)
    slides = slides and (kinds is None or "sliding_attention" in kinds)
    limits = (trained, _rope_limit(config), window if slides and not windowed else None)
    return min((limit for limit in limits if limit is not None), default=None)


def _rope_limit(config: PretrainedConfig) -> int | None:
    """The longest sequence at which rotary frequencies do not depend on the longest row.

    "longrope" and "dynamic" change the frequencies of a whole batch when one row grows past the
    original context; keys in the cache and the other rows' results would change with it.
    """
    text = config.get_text_config()
    parameters: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if not isinstance(parameters, dict):
        return None
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    limits = [
        kind.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        or text.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) in ("longrope", "dynamic")
    ]
    return min(limits, default=None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' log lines and progress bars off the terminal; errors are raised."""
    logging: Any = transformers.logging
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
