"""A rehearsal of a model that runs in padded batches: it runs the steps that take most.

To be called where tensors have shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from tgi_backend_torch.device import Device
from tgi_backend_torch.loaded import Loaded
from tgi_backend_torch.make_padded import (
    affordable_slots,
    choose_room,
    put_under,
    refuse_other_dtypes,
)
from tgi_backend_torch.padded_trial import PaddedTrial, find_layers, suppose_padded
from tgi_backend_torch.rehearsal import Rehearsed
from tgi_backend_torch.tally import Tally
from tgi_core.contract import Capabilities, LoadRequest, Step, plan_sizes
from tgi_core.errors import DoesNotFit

_SHORT, _LONGER = 16, 24
"""Tokens of prompts that tell how memory grows with them."""


def rehearse_padded(
    model: PreTrainedModel, request: LoadRequest, device: Device, memory_bytes: int, tally: Tally
) -> Rehearsed:
    """Makes pages and slots, and runs the largest steps; see `rehearse_flat`.

    Raises:
        SetupError: see `choose_room`.
        UnsupportedModel: see `find_layers`.
    """
    refuse_other_dtypes(request)
    layers, whole = find_layers(model)
    vocab_size = whole.shape[-1]
    del whole
    weights_bytes = tally.live_bytes
    trial = suppose_padded(model, layers, vocab_size, device.to_device)
    free_bytes = memory_bytes - weights_bytes
    try:
        num_slots = affordable_slots(trial, request, free_bytes)
    except DoesNotFit:
        num_slots = request.max_rows or 1
    defaults = device.size_defaults
    room = choose_room(model, trial, request, num_slots, free_bytes, defaults, plan_sizes)
    loaded = put_under(model, trial, room, device)
    limits = loaded.capabilities
    cached_bytes = tally.live_bytes
    return Rehearsed(
        limits=limits,
        weights_bytes=weights_bytes,
        cache_bytes=cached_bytes - weights_bytes,
        cell_bytes=room.cell_bytes,
        step_bytes=_most_bytes(loaded, trial, tally),
        longest=room.longest,
    )


def _most_bytes(loaded: Loaded, trial: PaddedTrial, tally: Tally) -> int:
    """What the largest step takes beside all that is there."""
    limits = loaded.capabilities
    if trial.chunked or limits.encoder is not None:
        return max(_bytes_of(step, loaded, tally) for step in largest_steps(limits))
    # a kernel that cannot begin with a state takes a turn for each token, fake ones too: minutes.
    # What it takes grows with them
    short, longer = (
        _bytes_of(_step([_prompt(limits, tokens)], limits), loaded, tally)
        for tokens in (_SHORT, _LONGER)
    )
    more = (longer - short) / (_LONGER - _SHORT)
    prompt = longer + int(more * (limits.max_sequence_tokens - _LONGER))
    others = limits.max_rows - 1
    return max(
        # the others' states are held until the step is over
        prompt + others * trial.state_bytes,
        _bytes_of(
            _step(_crowd(limits, limits.max_rows, limits.cache_tokens), limits), loaded, tally
        ),
    )


def _bytes_of(step: Step, loaded: Loaded, tally: Tally) -> int:
    held = tally.live_bytes
    ends = step.past + step.n
    for seq, end in zip(step.seq.tolist(), ends.tolist(), strict=True):
        loaded.tables.reserve(seq, end)
    tally.forget_peak()
    loaded.computing.logits(step, loaded.tables.rows(step.seq, int(ends.max())))
    for seq in step.seq.tolist():
        loaded.tables.release(seq)
    return tally.peak_bytes - held


def largest_steps(limits: Capabilities) -> Iterator[Step]:
    """Steps of which one takes most: a prompt at the end of the longest sequence; as many rows as
    there may be, the cache full; and both together.
    """
    yield _step([_prompt(limits, limits.max_step_tokens)], limits)
    yield _step(_crowd(limits, limits.max_rows, limits.cache_tokens), limits)
    others = _crowd(limits, limits.max_rows - 1, limits.cache_tokens - limits.max_sequence_tokens)
    if others:
        rest = limits.max_step_tokens - len(others)
        yield _step([*others, _prompt(limits, rest)], limits)


@dataclass(frozen=True, slots=True)
class _Row:
    past: int
    n: int
    encoded: int


def _prompt(limits: Capabilities, most_tokens: int) -> _Row:
    """The last of the longest prompt, or all of it if there is an encoder."""
    longest = limits.max_sequence_tokens
    if limits.encoder is None:
        n = min(most_tokens, longest)
        return _Row(longest - n, n, 0)
    begin = len(limits.encoder.start)
    encoded = min(limits.encoder.max_prompt_tokens or longest, longest - begin)
    return _Row(0, encoded + begin, encoded)


def _crowd(limits: Capabilities, num_rows: int, cache_tokens: int) -> list[_Row]:
    """Rows that decode: half of them hold one token, and the others as much as there is room for,
    so that as much as can be is padding.
    """
    grain = limits.cache_grain_tokens
    blocks = cache_tokens // grain
    num_rows = min(num_rows, blocks)
    if num_rows < 1:
        return []
    longest = limits.max_sequence_tokens
    num_long = min(max(1, blocks * grain // longest), (num_rows + 1) // 2)
    num_short = num_rows - num_long
    length = min(longest, (blocks - num_short) // num_long * grain)
    return [_decoding(limits, length)] * num_long + [_decoding(limits, 0)] * num_short


def _decoding(limits: Capabilities, length: int) -> _Row:
    """A row that holds so many tokens when its last one is computed, or as few as it can."""
    if limits.encoder is None:
        return _Row(max(1, length - 1), 1, 0)
    begin = len(limits.encoder.start)
    encoded = max(1, min(limits.encoder.max_prompt_tokens or length, length - begin - 1))
    return _Row(max(encoded + begin, length - 1), 1, encoded)


def _step(rows: list[_Row], limits: Capabilities) -> Step:
    n = np.array([row.n for row in rows], np.int32)
    return Step(
        seq=np.arange(len(rows), dtype=np.int32),
        past=np.array([row.past for row in rows], np.int32),
        n=n,
        tokens=np.zeros(n.sum(), np.int32),
        out=(np.cumsum(n) - 1).astype(np.int32),
        encoded=None
        if limits.encoder is None
        else np.array([row.encoded for row in rows], np.int32),
    )
