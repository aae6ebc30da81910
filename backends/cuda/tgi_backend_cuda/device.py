"""A GPU as the torch backend sees it: memory, transfers, data types, and what computes steps.

Serves CUDA and ROCm alike: what differs between them is in `Chip`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Group
from tgi_backend_torch.quant.choice import Kernel, choose
from tgi_backend_torch.vision import num_axes
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_cuda.attention import TritonAttention
from tgi_backend_cuda.buckets import Buckets
from tgi_backend_cuda.chip import Chip
from tgi_backend_cuda.computing import GraphComputing
from tgi_backend_cuda.driver import Driver
from tgi_backend_cuda.fused import fuse
from tgi_backend_cuda.groups import Groups
from tgi_backend_cuda.marlin import Marlin
from tgi_core.contract import Capabilities, SizeDefaults
from tgi_core.errors import UsageError

logger = logging.getLogger(__name__)

_LARGE_BYTES = 36 << 30
_GRAPH_BYTES = 1 << 30
"""What the driver takes for the nodes of some fifty graphs, beside their tensors."""
_OPTIONS = ("graphs", "fused", "few_bits")
_INTERFACE = "NCCL_SOCKET_IFNAME"
_SWITCH = {"on": True, "off": False}


class GpuDevice:
    """Satisfies `DeviceOfRanks` of the torch backend: ranks have a GPU each, all alike."""

    def __init__(self, name: str, chip: Chip, driver: Driver) -> None:
        """`name`: what `--device` calls it."""
        self.name = name
        self.torch_device = driver.torch_device
        self.cache_dtypes = chip.cache_dtypes
        self._chip = chip
        self._driver = driver
        self._graphs = True
        self._fused = True
        self._few_bits = True

    @property
    def most_ranks(self) -> int | None:
        """One for each GPU."""
        return self._driver.num_devices

    def environment(self, rank: int, size: int, given: Mapping[str, str]) -> Mapping[str, str]:
        """NCCL listens on the loopback interface only, unless the operator says otherwise."""
        return {_INTERFACE: given.get(_INTERFACE) or "lo"}

    def of_rank(self, rank: int, size: int) -> GpuDevice:
        """The GPU of this number."""
        return GpuDevice(self.name, self._chip, self._driver.of_rank(rank))

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By the library of the GPUs' maker."""
        return self._driver.of_rank(rank).connect(meeting_point, rank, size)

    @property
    def size_defaults(self) -> SizeDefaults:
        """Many rows, long chunks, and a cache in all that is left; less on small GPUs."""
        large = self._chip.total_bytes >= _LARGE_BYTES
        return SizeDefaults(
            rows=256 if large else 64,
            step_tokens=4096 if large else 2048,
            cache_bytes=None,
            # the rest is for what the allocator cannot use of its pieces
            of_memory=0.95,
        )

    def configure(self, options: Mapping[str, str]) -> None:
        """`graphs`, `fused` and `few_bits`, each on or off.

        Raises:
            UsageError: another option, or another value.
        """
        for key, value in options.items():
            if key not in _OPTIONS or value not in _SWITCH:
                raise UsageError(
                    f"the {self.name} backend has the options graphs=on|off, fused=on|off and "
                    f"few_bits=on|off, and was given {key}={value}."
                )
        self._graphs = _SWITCH[options.get("graphs", "on")]
        self._fused = _SWITCH[options.get("fused", "on")]
        self._few_bits = _SWITCH[options.get("few_bits", "on")]

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """The checkpoint's if it has two bytes and the chip computes it; else bfloat16, or float16
        where there is none. Float32 is several times slower, and must be asked for.
        """
        if checkpoint in self._chip.dtypes - {torch.float32}:
            return checkpoint
        return torch.bfloat16 if torch.bfloat16 in self._chip.dtypes else torch.float16

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Refuses bfloat16 on chips that would emulate it."""
        if dtype in self._chip.dtypes:
            return None
        return f"{self._chip.name} does not compute in {dtype}; use --dtype float16"

    def free_bytes(self) -> int:
        """What the driver has, and what torch's allocator keeps without use."""
        return self._driver.free_bytes()

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Measured twice over, for graphs have memory of their own, and what graphs take."""
        return 2 * self._driver.peak_bytes(run) + _GRAPH_BYTES

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Chooses kernels for weights in few bits, and fuses what lies between the products."""
        if self._few_bits:
            choose(model, dtype, self._kernels(dtype))
        if self._fused and isinstance(model, PreTrainedModel):
            logger.info("fused: %s", fuse(model, self._chip.architecture))

    def _kernels(self, dtype: torch.dtype) -> list[Kernel]:
        """For weights in few bits, the best first."""
        chip = self._chip
        kernels: list[Kernel] = []
        if chip.marlin and dtype in (torch.float16, torch.bfloat16):
            kernels.append(Marlin(chip.architecture.multiprocessors))
        return [*kernels, Groups(arch=chip.architecture, float8=chip.reads_float8)]

    def computing(
        self, model: FlatModel, cache: PagedCache, limits: Capabilities
    ) -> GraphComputing:
        """Our kernels over the cache, in graphs."""
        axes = num_axes(model.model.config)
        return GraphComputing(
            model,
            TritonAttention(cache, self._chip.architecture, model.model.dtype),
            self._driver,
            self._chip.architecture,
            vocab_size=limits.vocab_size,
            dtype=model.model.dtype,
            max_rows=limits.max_rows,
            max_tokens=limits.max_step_tokens,
            max_blocks=-(-limits.max_sequence_tokens // BLOCK_TOKENS),
            num_axes=axes,
            buckets=Buckets.up_to(
                limits.max_rows,
                limits.max_step_tokens,
                axes,
                short=self._chip.architecture.joined is not None,
            )
            if self._graphs
            else None,
        )

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Without waiting."""
        return self._driver.move(array)

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """What is returned waits for this copy alone."""
        host = self._driver.fetch(tensor)
        arrived = self._driver.mark()

        def wait() -> Tensor:
            arrived.wait()
            return host

        return wait

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Torch's own error, or that of a library that could not get its workspace."""
        return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)

    def close(self) -> None:
        """Waits for all that was started."""
        self._driver.synchronize()
