"""Gives modules another forward where a trial shows that it computes the same.

A module is judged by what it computes, not by its name: the model runs once, and each candidate
gets what the module got. For device packages, whose kernels do what a few of torch's calls do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_torch.attention import BoundLayer, Scoring
from tgi_backend_torch.cross_attention import modules_of_text
from tgi_backend_torch.forward import FlatModel

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of the norm of a difference, relative to that of the result."""


@dataclass(frozen=True, slots=True)
class Call:
    """A module, and what it got and gave in a forward of the whole model."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


class Asked:
    """Stands in for `Attention`: keeps what each layer asked, gives back its values."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[Tensor, Tensor, Tensor, Scoring]] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Attention without any."""
        self.asked[layer] = (query.clone(), key.clone(), value.clone(), scoring)
        return value.repeat_interleave(query.shape[1] // value.shape[1], 1)


def calls_of(model: PreTrainedModel, wanted: Callable[[nn.Module], bool]) -> list[Call]:
    """The first call of each wanted module in three tokens; none if the model cannot run so."""
    calls: dict[nn.Module, Call] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        calls.setdefault(module, Call(module, args, kwargs, result))

    hooks = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in modules_of_text(model)
        if wanted(module)
    ]
    try:
        return list(calls.values()) if runs(model) else []
    finally:
        for hook in hooks:
            hook.remove()


def runs(model: PreTrainedModel, mode: type[AbstractContextManager[None]] | None = None) -> bool:
    """Runs three tokens without attention, and says whether the model can.

    Args:
        model: with whatever hooks its caller learns from.
        mode: see `FlatModel`.
    """
    modules = modules_of_text(model)
    asked = Asked()
    for index, module in enumerate(modules):
        module.tgi_layer = BoundLayer(asked, index)  # type: ignore[assignment]
    try:
        tokens, positions = torch.tensor([[1, 2, 3], [0, 1, 7]], device=model.device)
        FlatModel(model, mode)(tokens, positions, positions[:1])
    except Exception:  # model code raises whatever it likes, and the trial at loading says why
        return False
    finally:
        for module in modules:
            del module.tgi_layer
    return True


def is_rms_norm(module: nn.Module) -> bool:
    """Whether it may be one, by its parts."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(weight, nn.Parameter)
        and weight.dim() == 1
        and isinstance(getattr(module, "variance_epsilon", None), float)
    )


def take(call: Call, forward: Callable[..., Any], alike: Callable[[Any], bool]) -> bool:
    """Gives the module this forward if it computes what the module did."""
    try:
        fits = alike(forward(*call.args, **call.kwargs))
    except Exception:  # whatever shape or argument it did not expect, the module did
        return False
    if fits:
        call.module.forward = forward  # type: ignore[method-assign]
    return fits


def is_alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding alone."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = _TOLERANCE[expected.dtype]
    # on the host: not every device has numbers of eight bytes
    found, expected = found.cpu().double(), expected.cpu().double()
    return bool((found - expected).norm() <= tolerance * expected.norm())
