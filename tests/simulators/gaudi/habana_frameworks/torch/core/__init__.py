"""The calls of habana_frameworks.torch.core that a server makes."""

from tests.simulators.hpu import DEVICE


def hpu_set_inference_env() -> None:
    DEVICE.start()


def mark_step(device_str: str = "", sync: bool = False) -> None:
    DEVICE.mark_step()
