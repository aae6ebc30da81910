"""The StepBackend of models that only embed: whole texts, and nothing kept between steps.

Any class that AutoModel knows and that gives hidden states: BERT and its kin, which see a text from
both ends, and decoders that were published without a head.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from tgi_backend_torch.checkpoint import find_checkpoint
from tgi_backend_torch.device import CpuDevice, Device
from tgi_backend_torch.loader import load_model, longest_sequence, own_attention, read_config
from tgi_backend_torch.pool import pool_rows
from tgi_backend_torch.quant.formats import refuse_quantized
from tgi_backend_torch.sentences import longest_text, read_pooling
from tgi_backend_torch.trial import brief
from tgi_backend_torch.wishes import check_weights_fit, choose_dtype, refuse_shards, refuse_unknown
from tgi_core.contract import (
    BackendStats,
    Capabilities,
    Embedding,
    LoadRequest,
    PendingLogits,
    Pooling,
    Progress,
    Step,
)
from tgi_core.errors import OutOfMemory, Unsupported, UnsupportedModel, UsageError

_DEFAULT_ROWS = 64
_DEFAULT_STEP_TOKENS = 4096
_DEFAULT_LONGEST = 8192
"""Of models that name a longer text, or none: a text is computed whole, in one step."""

_WORTH_PADDING = 0.25
"""Most padding in a group of texts, as a share: more costs more than another call."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: PreTrainedModel
    capabilities: Capabilities
    embedding: Embedding


class EncoderBackend:
    """Satisfies `StepBackend` and `Embeds`."""

    def __init__(self, device: Device | None = None) -> None:
        self._device: Device = device or CpuDevice()
        self._loaded: _Loaded | None = None

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Reads the weights; see `StepBackend.load`. There are no options, and no cache."""
        device = self._device
        refuse_unknown(request, device)
        refuse_shards(request)
        if request.num_threads is not None:
            torch.set_num_threads(request.num_threads)
        folder = request.model.path
        refuse_quantized(folder, request.quantize, "texts are embedded")
        config = read_config(folder)
        cls = _model_class(config)
        wanted = read_pooling(folder)
        checkpoint = find_checkpoint(folder)
        dtype = choose_dtype(request.dtype, checkpoint, device)
        check_weights_fit(checkpoint, dtype, device)
        # a pooler is a layer of BERT's own training, which no checkpoint for embeddings needs
        takes = inspect.signature(cls.__init__).parameters
        arguments = {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}
        model = load_model(
            cls,
            config,
            checkpoint,
            dtype,
            device.torch_device,
            progress,
            attention=own_attention(cls),
            **arguments,
        )
        model.config.use_cache = False
        device.prepare(model, dtype, exact=request.dtype is not None)
        longest = _longest(model, config, request)
        max_step_tokens = request.max_step_tokens or max(_DEFAULT_STEP_TOKENS, longest)
        longest = min(longest, max_step_tokens)
        max_rows = min(request.max_rows or _DEFAULT_ROWS, max_step_tokens)
        embedding = Embedding(size=_try(model), pooling=wanted or _default_pooling(model))
        capabilities = Capabilities(
            device=device.name,
            vocab_size=_num_tokens(model),
            max_sequences=max_rows,
            max_rows=max_rows,
            max_step_tokens=max_step_tokens,
            max_sequence_tokens=longest,
            max_prefill_tokens=longest,
            # nothing is kept, so there is always room
            cache_tokens=max_rows * longest,
            mixed=True,
            generates=False,
            embedding=embedding,
        )
        self._loaded = _Loaded(model, capabilities, embedding)
        return capabilities

    def warm_up(self, progress: Progress) -> None:
        """One text, so that kernels are chosen and weights are in memory."""
        progress("warming up", 0, 1, "texts")
        length = min(64, self._here().capabilities.max_prefill_tokens)
        self._hidden([np.zeros(length, np.int32)])
        progress("warming up", 1, 1, "texts")

    def reserve(self, seq: int, length: int) -> bool:
        """There is always room."""
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """There is nothing to share."""
        return False

    def truncate(self, seq: int, length: int) -> None:
        """Nothing is held."""

    def release(self, seq: int) -> None:
        """Nothing is held."""

    def step(self, step: Step) -> PendingLogits:
        """Such a model has no logits."""
        raise Unsupported("generation: the model only embeds")

    def embed(self, step: Step) -> NDArray[np.float32]:
        """Texts of similar length side by side; see `Embeds.embed`."""
        loaded = self._here()
        limits = loaded.capabilities
        if step.past.any() or step.n.max() > limits.max_prefill_tokens:
            raise Unsupported(
                f"a text in parts, or one of more than {limits.max_prefill_tokens} tokens"
            )
        texts = np.split(step.tokens, step.row_begins()[1:-1])
        vectors = np.empty((len(texts), loaded.embedding.size), np.float32)
        for group in _similar(step.n):
            lengths = step.n[group].tolist()
            hidden = self._hidden([texts[i] for i in group])
            flat = torch.cat([row[:n] for row, n in zip(hidden, lengths, strict=True)])
            vectors[group] = pool_rows(flat, lengths, loaded.embedding.pooling)
        return vectors

    def stats(self) -> BackendStats:
        """No cells are in use."""
        return BackendStats()

    def close(self) -> None:
        """Drops the model."""
        self._device.close()
        self._loaded = None
        # modules and their parents refer to each other
        gc.collect()

    def _hidden(self, texts: list[NDArray[np.int32]]) -> Tensor:
        """(N, longest, size): hidden states of texts, padded behind their ends."""
        width = max(map(len, texts))
        tokens = np.full((len(texts), width), self._padding, np.int64)
        mask = np.zeros((len(texts), width), np.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        ids, seen = (torch.from_numpy(x).to(self._device.torch_device) for x in (tokens, mask))
        try:
            return _run(self._here().model, ids, seen)
        except RuntimeError as error:
            if self._device.is_out_of_memory(error):
                raise OutOfMemory(f"texts of {tokens.size} tokens do not fit in memory") from error
            raise

    @property
    def _padding(self) -> int:
        """RoBERTa and its kin count positions over tokens that are not this one."""
        padding = self._here().model.config.pad_token_id
        return padding if isinstance(padding, int) and padding >= 0 else 0

    def _here(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class without a head.

    Raises:
        UnsupportedModel: there is none that takes a text alone.
    """
    if config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{config.model_type} is an encoder-decoder; the torch backend embeds with encoders or "
            "decoders alone."
        )
    classes: Any = MODEL_MAPPING
    if type(config) not in classes:
        raise UnsupportedModel(f"transformers has no plain model of the type {config.model_type}.")
    cls: type[PreTrainedModel] = classes[type(config)]
    if not {"input_ids", "attention_mask"} <= inspect.signature(cls.forward).parameters.keys():
        raise UnsupportedModel(f"{cls.__name__} takes no text with padding.")
    return cls


def _run(model: PreTrainedModel, tokens: Tensor, mask: Tensor) -> Tensor:
    with torch.inference_mode():
        states: Tensor = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return states


def _try(model: PreTrainedModel) -> int:
    """Width of the hidden states.

    Raises:
        UnsupportedModel: there are none.
    """
    tokens = torch.ones((1, 2), dtype=torch.int64, device=model.device)
    try:
        return _run(model, tokens, torch.ones_like(tokens)).shape[-1]
    except Exception as error:  # model code raises whatever it likes
        raise UnsupportedModel(
            f"{type(model).__name__} gives no hidden states of a text ({brief(error)})."
        ) from error


def _default_pooling(model: PreTrainedModel) -> Pooling:
    """What sentence-transformers takes for encoders; of a decoder the token that sees all."""
    is_causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    return Pooling.LAST if is_causal else Pooling.MEAN


def _num_tokens(model: PreTrainedModel) -> int:
    table: Any = model.get_input_embeddings()
    return int(table.num_embeddings)


def _longest(model: PreTrainedModel, config: PretrainedConfig, request: LoadRequest) -> int:
    """Tokens in the longest text to take.

    Raises:
        UsageError: more are asked for than the model was made for.
    """
    positions = [longest_sequence(config, windowed=True), _usable_positions(model)]
    trained = min((p for p in positions if p is not None), default=None)
    asked = request.max_sequence_tokens
    if asked is not None:
        if trained is not None and asked > trained:
            raise UsageError(
                f"texts of {asked} tokens were asked for, and the model is made for at most "
                f"{trained}: lower --max-total-tokens."
            )
        return asked
    named = longest_text(request.model.path)
    return min(p for p in (trained, named, _DEFAULT_LONGEST) if p is not None)


def _usable_positions(model: PreTrainedModel) -> int | None:
    """Rows of a table of positions that a text can use: RoBERTa's begins behind its padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - before
    return None


def _similar(lengths: NDArray[np.int32]) -> Iterable[NDArray[np.intp]]:
    """Splits texts into groups in which padding to the longest wastes little."""
    order = np.argsort(-lengths, kind="stable")
    group: list[int] = []
    used = 0
    for index in order.tolist():
        longest = int(lengths[group[0]]) if group else 0
        padded = longest * (len(group) + 1)
        if group and padded - used - int(lengths[index]) > _WORTH_PADDING * padded:
            yield np.array(group)
            group, used = [], 0
        group.append(index)
        used += int(lengths[index])
    yield np.array(group)
