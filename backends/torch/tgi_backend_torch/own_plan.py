"""What a plan of ours says: how a model is cut that transformers has no plan for.

Plans are written as transformers writes its own (`tp_plan`), with two words more. What is cut by
them, and whether it can be, is not known here: `shards.py` does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from tgi_backend_torch.pieces import Pieces, pattern_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """Patterns are names in a model, with `*` for the number of a layer."""

    layers: Mapping[str, str]
    """How a layer, or a parameter of one, is cut."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Numbers that modules compute shapes with: each shrinks as the outputs of a layer do."""
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Numbers of heads of one layer to a head of another one, of which ranks may share some."""
    lists: Mapping[str, str] = field(default_factory=dict)
    """Lists of modules, one for each head: a rank keeps those whose heads it has of a layer."""
    by_head: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arguments of modules that hold something for each head."""
    whole: str = ""
    """What every rank computes all of; for people."""

    def counts_of(self, model: nn.Module, pieces: Mapping[str, Pieces | None]) -> dict[str, int]:
        """What the numbers of a model's modules become, by their names in the model.

        Args:
            model: as it was before it was cut.
            pieces: what is kept of each parameter that is cut.
        """
        found = {}
        for name, module in model.named_modules():
            for pattern, layer in self.counts.items():
                at, _, attribute = pattern.rpartition(".")
                if pattern_of(name) == at:
                    begin, end, width = _kept(name, layer, pieces)
                    count = getattr(module, attribute)
                    # ranks that share a key have one as well
                    found[f"{name}.{attribute}"] = max(1, count * (end - begin) // width)
            for pattern, (many, few) in self.ratios.items():
                at, _, attribute = pattern.rpartition(".")
                if pattern_of(name) == at:
                    begin, end, width = _kept(name, many, pieces)
                    first, last, other = _kept(name, few, pieces)
                    count = getattr(module, attribute) * (end - begin) * other
                    found[f"{name}.{attribute}"] = count // (width * (last - first))
        return found

    def lists_of(
        self, model: nn.Module, pieces: Mapping[str, Pieces | None]
    ) -> dict[str, tuple[int, int]]:
        """What is kept of lists of modules, from and to, by their names; arguments as above."""
        found = {}
        for name, module in model.named_modules():
            layer = self.lists.get(pattern_of(name))
            if layer is not None and isinstance(module, nn.ModuleList):
                begin, end, width = _kept(name, layer, pieces)
                found[name] = begin * len(module) // width, end * len(module) // width
        return found


def _kept(name: str, pattern: str, pieces: Mapping[str, Pieces | None]) -> tuple[int, int, int]:
    """From where to where a layer is kept, of how much; it is in the same block as `name`."""
    numbers = iter(re.findall(r"(?<=\.)\d+(?=\.)", name))
    layer = re.sub(r"\*", lambda star: next(numbers), pattern)
    piece = pieces[f"{layer}.weight"]
    assert piece is not None
    return piece.ranges[0][0], piece.ranges[-1][1], piece.width
