"""Sizes of a model that runs in padded batches: how many tokens and sequences its memory holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Protocol

from transformers import PreTrainedModel

from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.device import Device
from tgi_backend_torch.encoding import EncodingModel
from tgi_backend_torch.group import Group
from tgi_backend_torch.layers import StateSlots
from tgi_backend_torch.loaded import Loaded
from tgi_backend_torch.loader import longest_sequence
from tgi_backend_torch.lora import AdapterBank
from tgi_backend_torch.padded import PaddedModel
from tgi_backend_torch.padded_trial import PaddedTrial, find_layers, run_largest, try_padded
from tgi_core.contract import (
    BlockPool,
    BlockTables,
    Capabilities,
    Encoder,
    Fork,
    LoadRequest,
    SizeDefaults,
    Sizes,
    choose_sizes,
    step_limits,
)
from tgi_core.errors import DoesNotFit, UnsupportedModel, UsageError

logger = logging.getLogger(__name__)

_DEFAULT_TOKENS = 4096
"""Longest sequence of a model whose positions and keys do not limit it, or whose encoder compares
all tokens of a prompt with each other."""


_MOST_OF_MEMORY, _MOST_SLOTS = 0.25, 256
"""For recurrent states, where nobody asks for more rows."""


class ChooseSizes(Protocol):
    """As `choose_sizes`."""

    def __call__(
        self,
        request: LoadRequest,
        *,
        cell_bytes: int,
        block_tokens: int,
        free_bytes: int,
        longest: int | None,
        defaults: SizeDefaults,
    ) -> Sizes:
        """See there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much of what a model keeps there is to be."""

    request: LoadRequest
    """With what was chosen where it asks for nothing."""
    sizes: Sizes
    cell_bytes: int
    """Of a token in all layers; 0 if nothing is kept of tokens."""
    longest: int | None
    """Most tokens of a sequence, an encoder's included, that the model was made for."""
    encoder: Encoder | None


def make_padded(
    model: PreTrainedModel, request: LoadRequest, device: Device, group: Group, fault: str
) -> Loaded:
    """Puts pages and slots under a model that keeps its past in transformers' cache.

    Args:
        model: the model.
        request: what the operator wants.
        device: where it is.
        group: the ranks that have parts of it.
        fault: why no flat batch holds it.

    Raises:
        UnsupportedModel: its past cannot be kept; says why.
        SetupError: the sizes asked for do not fit.
    """
    logger.info("the model runs in padded batches: %s", fault)
    try:
        return _made(model, request, device, group)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{fault.rstrip('.')}. In padded batches, {error}") from error


def _made(model: PreTrainedModel, request: LoadRequest, device: Device, group: Group) -> Loaded:
    refuse_other_dtypes(request)
    layers, whole = find_layers(model)
    trial = try_padded(model, layers, whole, device.to_device, group)
    longest = longest_sequence(model.config, windowed=True)
    _, tokens = step_limits(request, device.size_defaults)
    peak_bytes = device.peak_bytes(lambda: run_largest(model, min(tokens, longest or tokens)))
    free_bytes = group.least(max(0, device.free_bytes() - peak_bytes))
    num_slots = affordable_slots(trial, request, free_bytes)
    room = choose_room(model, trial, request, num_slots, free_bytes, device.size_defaults)
    return put_under(model, trial, room, device)


def refuse_other_dtypes(request: LoadRequest) -> None:
    """Refuses to keep keys and values in another dtype.

    Raises:
        UsageError: that is asked for.
    """
    if request.kv_cache_dtype is not None:
        raise UsageError(
            "models in padded batches keep keys and values in the dtype that they compute in: "
            "leave out --kv-cache-dtype."
        )


def choose_room(
    model: PreTrainedModel,
    trial: PaddedTrial,
    request: LoadRequest,
    num_slots: int | None,
    free_bytes: int,
    defaults: SizeDefaults,
    choose: ChooseSizes = choose_sizes,
) -> Room:
    """Sizes of what a model keeps.

    Args:
        model: the model; its weights are not needed.
        trial: what it keeps.
        request: what the operator wants.
        num_slots: sequences whose states there is memory for; see `affordable_slots`.
        free_bytes: memory beside the weights.
        defaults: what suits the device.
        choose: chooses what nobody asks for.

    Raises:
        SetupError: see `choose_sizes` and `encoder_of`.
    """
    longest = longest_sequence(model.config, windowed=True)
    encoder = encoder_of(model, longest)
    cell_bytes = sum(cell.numbers for cell in trial.cells) * model.dtype.itemsize
    if encoder is not None and longest is not None:
        longest *= 2
    if longest is None and (encoder is not None or not cell_bytes):
        request = replace(
            request,
            max_sequence_tokens=request.max_sequence_tokens
            or min(_DEFAULT_TOKENS, request.cache_tokens or _DEFAULT_TOKENS),
        )
    if num_slots is not None:
        request = replace(request, max_rows=min(request.max_rows or defaults.rows, num_slots))
    sizes = choose(
        request,
        cell_bytes=max(1, cell_bytes),
        block_tokens=BLOCK_TOKENS,
        free_bytes=free_bytes - trial.state_bytes * (num_slots or 0),
        longest=longest,
        defaults=defaults,
    )
    return Room(
        request=request,
        sizes=replace(
            sizes, max_sequences=min(sizes.max_sequences, num_slots or sizes.max_sequences)
        ),
        cell_bytes=cell_bytes,
        longest=longest,
        encoder=encoder,
    )


def put_under(model: PreTrainedModel, trial: PaddedTrial, room: Room, device: Device) -> Loaded:
    """Makes pages and slots, and the model ready for steps."""
    sizes = room.sizes
    pages = PagedCache(trial.cells, sizes.num_blocks, model.dtype, device.torch_device)
    slots = StateSlots(trial.layers, sizes.max_sequences, device.torch_device)
    kind = PaddedModel if room.encoder is None else EncodingModel
    return Loaded(
        request=room.request,
        computing=kind(model, trial.layers, pages, slots, trial.rules, device.to_device),
        tables=BlockTables(
            BlockPool(sizes.num_blocks),
            BLOCK_TOKENS,
            sizes.max_sequences,
            sizes.max_sequence_tokens,
        ),
        cache=pages,
        adapters=AdapterBank({}, device.torch_device),
        capabilities=_capabilities(
            replace(
                sizes.capabilities(device.name, trial.vocab_size, BLOCK_TOKENS),
                encoder=room.encoder,
            ),
            trial,
        ),
        dtype=model.dtype,
        num_bytes=pages.num_bytes + slots.num_bytes,
    )


def encoder_of(model: PreTrainedModel, positions: int | None) -> Encoder | None:
    """What core must know of a model's encoder; None if it has none.

    Raises:
        UnsupportedModel: nobody says what the decoder begins with.
    """
    if not model.config.is_encoder_decoder:
        return None
    start = _first_of(model, "decoder_start_token_id", "bos_token_id")
    if start is None:
        raise UnsupportedModel(
            "neither generation_config.json nor config.json says with which token the decoder "
            "begins (decoder_start_token_id)."
        )
    # a translator is told its language by the first token that it does not choose
    forced = _first_of(model, "forced_bos_token_id")
    return Encoder(
        start=(start,) if forced is None else (start, forced),
        max_prompt_tokens=positions,
        max_output_tokens=positions,
    )


def _first_of(model: PreTrainedModel, *names: str) -> int | None:
    for name in names:
        for config in (model.generation_config, model.config):
            token = getattr(config, name, None)
            if isinstance(token, int):
                return token
    return None


def affordable_slots(trial: PaddedTrial, request: LoadRequest, free_bytes: int) -> int | None:
    """Sequences whose states memory holds: as many as are of use in a part of it, or as there are
    rows asked for; None if there are no states.

    Raises:
        DoesNotFit: memory does not hold that many.
    """
    if not trial.state_bytes:
        return None
    wanted = request.max_rows or 1
    if wanted * trial.state_bytes > free_bytes:
        raise DoesNotFit(
            f"the state of a sequence takes {trial.state_bytes / 2**20:,.0f} MiB, and memory holds "
            f"{free_bytes // trial.state_bytes} of them: ask for fewer sequences at once, or take "
            "a larger machine."
        )
    return max(wanted, min(_MOST_SLOTS, int(free_bytes * _MOST_OF_MEMORY) // trial.state_bytes))


def _capabilities(sizes: Capabilities, trial: PaddedTrial) -> Capabilities:
    """What a padded model can do, of all that a flat one can."""
    capabilities = sizes
    if trial.state_bytes:
        capabilities = replace(capabilities, fork=Fork.NONE, truncates=False, draft_lengths=())
    if sizes.encoder is not None:
        capabilities = replace(capabilities, draft_lengths=())
    if not trial.chunked or sizes.encoder is not None:
        # a prompt is computed in one step, also one that was preempted when it was long, and
        # whatever the other rows do meanwhile
        longest = capabilities.max_sequence_tokens
        capabilities = replace(
            capabilities,
            max_step_tokens=max(capabilities.max_step_tokens, longest + capabilities.max_rows),
            max_prefill_tokens=longest,
        )
    if not trial.chunked:
        capabilities = replace(capabilities, chunked=False, draft_lengths=())
    return capabilities
