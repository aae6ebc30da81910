"""The call of habana_frameworks.torch.utils.internal that a server makes."""

from tests.simulators.hpu import DEVICE


def is_lazy() -> bool:
    return DEVICE.lazy
