"""The simulated Gaudi refuses what a real one would, or would pay for with seconds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.simulators.hpu import DEVICE, Device, Refused, record


@pytest.fixture
def device(gaudi) -> Device:
    from habana_frameworks.torch import core  # as programs begin

    assert core is not None
    yield DEVICE
    DEVICE.stop()


def computed(what: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """In a graph."""

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return what(x)

    return record(Module())(x)


FAULTS = {
    "a number that is read back": lambda x: x * x.sum().item(),
    "a branch on a number": lambda x: x if x.sum() > 0 else -x,
    "a slice as long as a number says": lambda x: x[: x.sum().int()],
    "rows that a mask chooses": lambda x: x[x > 1],
    "places of what is not zero": lambda x: x.nonzero(),
    "a copy to the host": lambda x: x.cpu() + 1,
    "a write to a view": lambda x: x[:1].add_(1),
    "float64": lambda x: x.double() * 2,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_no_graph_holds_is_refused(device: Device, fault: str):
    device.start()
    x = torch.arange(4, dtype=torch.float32, device="hpu")
    assert computed(lambda x: x * 2 + 1, x).tolist() == [1, 3, 5, 7]
    with pytest.raises(Refused):
        computed(FAULTS[fault], x)


def test_float16_is_not_for_the_first_gaudi(device: Device):
    device.start()
    half = torch.ones(2, dtype=torch.float16, device="hpu")
    computed(lambda x: x + x, half)
    device.chip = "GAUDI"
    with pytest.raises(Refused, match="float16"):
        computed(lambda x: x + x, half)


def test_nothing_is_compiled_once_it_is_sealed_and_what_is_known_runs(device: Device):
    device.start()

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    graph = record(Doubled())
    x, longer = torch.ones(4, device="hpu"), torch.ones(5, device="hpu")
    graph(x)
    device.sealed = True
    graph(x)
    assert (device.num_compiled, device.replays) == (2, 1)
    with pytest.raises(Refused, match="after warm-up"):
        graph(longer)


def test_an_operation_between_graphs_that_is_new_is_compiled_late(device: Device):
    device.start()
    x = torch.ones(4, device="hpu")
    x.add(1)
    device.mark_step()
    device.sealed = True
    x.mul(2)
    with pytest.raises(Refused, match="after warm-up"):
        device.mark_step()


def test_nothing_is_copied_to_the_host_before_a_step_is_over(device: Device):
    device.start()
    x = torch.ones(4, device="hpu")
    assert x.sum().item() == 4
    device.in_step = True
    for read in (lambda: x.sum().item(), lambda: x.cpu(), lambda: x.numpy(), lambda: x.tolist()):
        with pytest.raises(Refused, match="before the step is over"):
            read()
