"""The calls of habana_frameworks.torch.hpu that a server makes."""

from torch import nn

from tests.simulators.hpu import DEVICE, record

_TOTAL = 1 << 30


def is_available() -> bool:
    return True


def device_count() -> int:
    return DEVICE.num_devices


def get_device_name(device: int | None = None) -> str:
    return DEVICE.chip


def mem_get_info(device: int | None = None) -> tuple[int, int]:
    return _TOTAL, _TOTAL


def memory_allocated(device: int | None = None) -> int:
    return 0


def max_memory_allocated(device: int | None = None) -> int:
    return 0


def reset_peak_memory_stats(device: int | None = None) -> None:
    pass


def synchronize(device: int | None = None) -> None:
    DEVICE.mark_step()


def wrap_in_hpu_graph(
    module: nn.Module,
    asynchronous: bool = False,
    disable_tensor_cache: bool = False,
    dry_run: bool = False,
    max_graphs: int | None = None,
) -> nn.Module:
    return record(module)
