"""An Intel GPU as the torch backend sees it: memory, transfers, data types. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.computing import Computing, EagerComputing
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Group
from torch import Tensor, nn

from tgi_backend_xpu.driver import Driver
from tgi_core.contract import Capabilities, SizeDefaults
from tgi_core.errors import UsageError


class XpuDevice:
    """Satisfies `DeviceOfRanks` of the torch backend: ranks have a GPU each."""

    name = "xpu"
    cache_dtypes: Mapping[str, torch.dtype] = MappingProxyType({})
    size_defaults = SizeDefaults(rows=64, step_tokens=2048, cache_bytes=None, of_memory=0.9)
    """A cache in all that is left, but for what the allocator cannot use of its pieces."""

    def __init__(self, driver: Driver) -> None:
        self.torch_device = driver.torch_device
        self._driver = driver

    @property
    def most_ranks(self) -> int | None:
        """One for each GPU."""
        return self._driver.num_devices

    def environment(self, rank: int, size: int, given: Mapping[str, str]) -> Mapping[str, str]:
        """There is nothing to say."""
        return {}

    def of_rank(self, rank: int, size: int) -> XpuDevice:
        """The GPU of this number."""
        return XpuDevice(self._driver.of_rank(rank))

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By oneCCL."""
        return self._driver.of_rank(rank).connect(meeting_point, rank, size)

    def configure(self, options: Mapping[str, str]) -> None:
        """There are none."""
        if options:
            raise UsageError(f"the xpu backend has no options, and was given {', '.join(options)}.")

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """The checkpoint's if it has two bytes and the chip computes it; else bfloat16, or float16
        where there is none. Float32 must be asked for.
        """
        halves = self._driver.dtypes - {torch.float32}
        if checkpoint in halves:
            return checkpoint
        return torch.bfloat16 if torch.bfloat16 in halves else torch.float16

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Refuses bfloat16 on chips that would emulate it."""
        if dtype in self._driver.dtypes:
            return None
        return f"this GPU does not compute in {dtype}; use --dtype float16"

    def free_bytes(self) -> int:
        """On the device."""
        return self._driver.free_bytes()

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Measured: nobody gives more when asked."""
        return self._driver.peak_bytes(run)

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Weights are arranged by oneDNN itself here."""

    def computing(self, model: FlatModel, cache: PagedCache, limits: Capabilities) -> Computing:
        """The kernels that come with torch, over gathered pages."""
        return EagerComputing(model, cache, self.to_device)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """A copy; the array may be changed at once."""
        return torch.from_numpy(array).to(self.torch_device, copy=True)

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Without waiting."""
        return self._driver.fetch(tensor)

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Torch's own error, or that of the runtime under it."""
        return isinstance(error, torch.OutOfMemoryError) or "OUT_OF_DEVICE_MEMORY" in str(error)

    def close(self) -> None:
        """Waits for all that was started."""
        self._driver.synchronize()
