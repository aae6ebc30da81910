"""How steps become HPU graphs: recorded once for each shape, and replayed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tgi_backend_gaudi import habana


class HpuGraphs:
    """Satisfies `Compiler` of the torch backend's shapes."""

    recorded = True
    """Whether graphs are; it takes lazy mode."""
    advice = "give --backend-option graphs=off if it is the model's own code."

    def compiled(self, forward: nn.Module) -> Callable[..., Tensor]:
        """In graphs."""
        return _copied(habana.as_graphs(forward))

    def launch(self) -> None:
        """Ends a piece of what lazy mode collects."""
        habana.flush()

    def wait(self) -> None:
        """For the device."""
        habana.synchronize()


class Operations(HpuGraphs):
    """The same operation by operation: no graph is recorded."""

    recorded = False
    advice = "its own code does not run on a Gaudi."

    def compiled(self, forward: nn.Module) -> Callable[..., Tensor]:
        """As it is."""
        return forward


def _copied(graphs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Copies what a graph gives: the next prompt of a step may be of the same shape, and so be
    written to the same place.
    """
    return lambda *inputs: graphs(*inputs).clone()
