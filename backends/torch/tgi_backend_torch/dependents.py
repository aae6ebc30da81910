"""Tells which tensors were computed from some others, whatever numbers they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Dependents(TorchDispatchMode):
    """While it is entered, follows what operations make of some tensors."""

    def __init__(self, sources: Iterable[Tensor]) -> None:
        super().__init__()
        # kept, so that no other storage takes the place of one that is known
        self._known = {id_of(source): source for source in sources}

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether it was made of them, or of what was."""
        return id_of(tensor) in self._known

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch for each operation."""
        out = func(*args, **(kwargs or {}))
        # what is only written over tells nothing
        read = args[1:] if func is torch.ops.aten.copy_.default else args
        if any(isinstance(leaf, Tensor) and leaf in self for leaf in tree_leaves((read, kwargs))):
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._known[id_of(leaf)] = leaf
        return out


def id_of(tensor: Tensor) -> int:
    """The same for all views of a tensor."""
    return tensor.untyped_storage()._cdata
