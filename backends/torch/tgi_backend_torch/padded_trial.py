"""Runs a few tokens through a model that keeps its past in transformers' cache, in several ways.

What a class claims of itself says little about whether its prompts can be computed in parts, or
beside longer ones. So it is tried: what gives the logits of a whole prompt is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from tgi_backend_torch.cache import BLOCK_TOKENS, LayerShape, PagedCache
from tgi_backend_torch.dependents import Dependents
from tgi_backend_torch.encoding import EncodingModel
from tgi_backend_torch.group import Group
from tgi_backend_torch.layers import KeptLayer, StateSlots, kept_layers
from tgi_backend_torch.padded import PaddedModel, cache_name
from tgi_backend_torch.padding import PaddingRules
from tgi_backend_torch.trial import TOLERANCE, brief
from tgi_core.contract import Step
from tgi_core.errors import UnsupportedModel

_PROMPT = (3, 7, 5, 9, 11, 4, 8)
_OTHER = (6, 2, 9)
_ENCODED = {0: (4, 9), 1: (8, 3, 6, 5)}
"""What each of two sequences has for its encoder, if there is one."""


@dataclass(frozen=True, slots=True)
class PaddedTrial:
    """What a model turned out to keep, and what it can do."""

    layers: tuple[KeptLayer, ...]
    vocab_size: int
    rules: PaddingRules
    chunked: bool
    """Whether a prompt may be computed in parts."""

    @property
    def cells(self) -> list[LayerShape]:
        """What is kept of each token, by layers that keep anything."""
        return [layer.cell for layer in self.layers if layer.cell is not None]

    @property
    def state_bytes(self) -> int:
        """What is kept of each sequence, however long."""
        return sum(state.num_bytes for layer in self.layers for state in layer.states)


def find_layers(model: PreTrainedModel) -> tuple[tuple[KeptLayer, ...], Tensor]:
    """Runs a whole prompt with transformers' own cache.

    Returns:
        What each layer keeps; float32 (tokens, vocab), the logits.

    Raises:
        UnsupportedModel: it does not run, or keeps nothing, or something that we do not know.
    """
    name = type(model).__name__
    try:
        with torch.inference_mode():
            logits, cache = _run_whole(model)
        layers = kept_layers(cache)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{name} cannot be served: {error}") from error
    except Exception as error:  # model code raises whatever it likes
        raise UnsupportedModel(f"{name} does not run with a cache ({brief(error)}).") from error
    if not any(layer.cell or layer.states for layer in layers):
        raise UnsupportedModel(
            f"{name} keeps nothing in the cache that it is given, so it would compute every prompt "
            "anew for each token."
        )
    return layers, logits.float()


def run_largest(model: PreTrainedModel, num_tokens: int) -> Tensor:
    """Runs the largest prompt, so that its memory can be measured: (num_tokens, vocab)."""
    with torch.inference_mode():
        return _run_whole(model, [2] * num_tokens, [2] * num_tokens)[0]


def _run_whole(
    model: PreTrainedModel,
    prompt: Sequence[int] = _PROMPT,
    encoded: Sequence[int] = _ENCODED[1],
) -> tuple[Tensor, Cache]:
    """Logits of the prompt, and the decoder's own cache."""
    cache, ids = DynamicCache(config=model.config), torch.tensor([prompt], device=model.device)
    if not model.config.is_encoder_decoder:
        arguments: dict[str, Any] = {cache_name(model): cache, "use_cache": True}
        return model(input_ids=ids, **arguments).logits[0], cache
    crossed = DynamicCache(config=model.config)
    logits = model(
        input_ids=torch.tensor([encoded], device=model.device),
        decoder_input_ids=ids,
        past_key_values=EncoderDecoderCache(cache, crossed),
        use_cache=True,
    ).logits[0]
    if [layer.cell for layer in kept_layers(crossed)] != [
        layer.cell for layer in kept_layers(cache)
    ]:
        raise UnsupportedModel(
            "its cross attention keeps keys and values of another shape than its decoder"
        )
    return logits, cache


def try_padded(
    model: PreTrainedModel,
    layers: tuple[KeptLayer, ...],
    whole: Tensor,
    to_device: Callable[[Any], Tensor],
    group: Group,
) -> PaddedTrial:
    """Finds out how the rows of a model may be put together.

    Args:
        model: the model.
        layers: what it keeps.
        whole: its logits of the whole prompt.
        to_device: brings an array to the model's device.
        group: the ranks that have parts of it, and must find the same.

    Raises:
        UnsupportedModel: not even a prompt and a token after it give the right logits.
    """
    allowed = TOLERANCE[model.dtype] * whole.abs().max()
    faults: list[Exception] = []

    def right(rules: PaddingRules, *steps: Sequence[tuple[int, Sequence[int]]]) -> bool:
        """Whether the last logits of sequence 1 are those of the whole prompt."""
        bench = _Bench(model, layers, rules, to_device)
        try:
            logits = [bench.step(rows) for rows in steps][-1]
        except Exception as error:  # model code raises whatever it likes
            faults.append(error)
            return False
        return bool(group.least(int((logits - whole[-1].cpu()).abs().max() <= allowed)))

    end = len(_PROMPT) - 1
    begin, last, extra = _PROMPT[:end], _PROMPT[end:], _OTHER[:1]
    alone = PaddingRules(pads=False, separate=_is_separate(model, layers))
    # with another sequence between: what a module keeps for itself would be that one's
    if not right(alone, [(1, begin)], [(0, _OTHER)], [(1, last)]):
        raise UnsupportedModel(
            f"{type(model).__name__} gives other logits for a token after a prompt than for both "
            "together: it keeps something outside of its cache, or its attention is not causal"
            + (f" ({faults[0]!r})." if faults else ".")
        )
    together = replace(alone, pads=True)
    pads = right(together, [(0, _OTHER)], [(1, begin)], [(0, extra), (1, last)]) and right(
        together, [(0, (*_PROMPT, *_OTHER))], [(1, begin)], [(0, extra), (1, last)]
    )
    return PaddedTrial(
        layers=layers,
        vocab_size=whole.shape[-1],
        rules=together if pads else alone,
        chunked=right(alone, [(1, _PROMPT[:3])], [(1, _PROMPT[3:])])
        and bool(
            group.least(_sees_states(lambda: _Bench(model, layers, alone, to_device), layers))
        ),
    )


def suppose_padded(
    model: PreTrainedModel,
    layers: tuple[KeptLayer, ...],
    vocab_size: int,
    to_device: Callable[[Any], Tensor],
) -> PaddedTrial:
    """What `try_padded` would find, of a model that has no numbers.

    It is supposed to be right where it runs at all, so that rows of all lengths share a call, which
    takes more than if they do not.
    """
    rules = PaddingRules(separate=_is_separate(model, layers))
    bench = _Bench(model, layers, rules, to_device)
    bench.step([(1, _PROMPT[:3])])
    bench.step([(0, _PROMPT)])
    try:
        bench.step([(0, _OTHER[:1]), (1, _OTHER[:1])])
    except Exception:  # model code raises whatever it likes
        rules = replace(rules, pads=False)
    chunked = True
    for name in _kinds_of_states(layers):
        with Dependents(bench.slots.of(name)) as dependents:
            chunked &= bench.step([(1, _OTHER)]) in dependents
    return PaddedTrial(layers, vocab_size, rules, chunked)


def _is_separate(model: PreTrainedModel, layers: tuple[KeptLayer, ...]) -> bool:
    return bool(model.config.is_encoder_decoder or any(layer.states for layer in layers))


def _kinds_of_states(layers: tuple[KeptLayer, ...]) -> set[str]:
    return {state.name for layer in layers for state in layer.states}


def _sees_states(bench_of: Callable[[], _Bench], layers: tuple[KeptLayer, ...]) -> bool:
    """Whether several tokens at once go on from each kind of state, however little it weighs.

    Some kernels always begin with nothing. Of random weights, or in bfloat16, one would not notice.
    """
    results = []
    for disturbed in (None, *_kinds_of_states(layers)):
        bench = bench_of()
        bench.step([(1, _PROMPT[:3])])
        if disturbed is not None:
            bench.slots.disturb(disturbed)
        results.append(bench.step([(1, _PROMPT[3:])]))
    return not any(torch.equal(results[0], other) for other in results[1:])


class _Bench:
    """Two sequences of a model, in a cache of their own."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: tuple[KeptLayer, ...],
        rules: PaddingRules,
        to_device: Callable[[Any], Tensor],
    ) -> None:
        cells = [layer.cell for layer in layers if layer.cell is not None]
        pages = PagedCache(cells, 2, model.dtype, model.device)
        self.slots = slots = StateSlots(layers, 2, model.device)
        self._encodes = bool(model.config.is_encoder_decoder)
        kind = EncodingModel if self._encodes else PaddedModel
        self._model = kind(model, layers, pages, slots, rules, to_device)
        self._held = {0: 0, 1: 0}

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
        """Appends tokens to sequences; float32 (vocab,), the last logits of the last one."""
        encoded = [len(_ENCODED[seq]) if self._encodes else 0 for seq, _ in rows]
        new = [
            (*_ENCODED[seq], *tokens) if self._encodes and not self._held[seq] else tokens
            for seq, tokens in rows
        ]
        ids = np.array([token for tokens in new for token in tokens], np.int64)
        step = Step(
            seq=np.array([seq for seq, _ in rows], np.int32),
            past=np.array([self._held[seq] for seq, _ in rows], np.int32),
            n=np.array([len(tokens) for tokens in new], np.int32),
            tokens=ids.astype(np.int32),
            out=np.array([len(ids) - 1], np.int32),
            encoded=np.array(encoded, np.int32) if self._encodes else None,
        )
        for (seq, _), tokens in zip(rows, new, strict=True):
            self._held[seq] += len(tokens)
            assert self._held[seq] <= BLOCK_TOKENS
        tables = np.array([[seq] for seq, _ in rows], np.int32)
        return self._model.logits(step, tables)[-1].float().cpu()
