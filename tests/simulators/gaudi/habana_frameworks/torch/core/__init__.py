"""The calls of habana_frameworks.torch.core that a server makes."""

from torch import nn

from tests.simulators.hpu import DEVICE


def hpu_inference_set_env(model: nn.Module | None = None) -> None:
    DEVICE.start()


def mark_step(device_str: str = "", sync: bool = False) -> None:
    DEVICE.mark_step()
