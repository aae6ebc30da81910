"""What the runner needs of a device, and how the CPU provides it.

A device package subclasses `CpuDevice` or writes its own `Device`; it changes where tensors live,
how much memory there is and what computes attention, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.computing import Computing, EagerComputing
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Group, connect_on_this_host
from tgi_backend_torch.linear import can_pack, computes_bfloat16, pack_linears
from tgi_backend_torch.merged import merge_linears
from tgi_backend_torch.quant.float8 import FLOAT8
from tgi_backend_torch.quant.kernels import choose_kernels
from tgi_core.contract import Capabilities, SizeDefaults, available_bytes
from tgi_core.errors import UsageError


class Device(Protocol):
    """Where a model runs."""

    @property
    def name(self) -> str:
        """For people, and what `LoadRequest.device` must say if it says anything."""
        ...

    @property
    def torch_device(self) -> torch.device:
        """Where weights, cache and inputs live."""
        ...

    @property
    def cache_dtypes(self) -> Mapping[str, torch.dtype]:
        """What keys and values can be kept in besides the model's dtype, by the operator's word."""
        ...

    def configure(self, options: Mapping[str, str]) -> None:
        """Takes the operator's `--backend-option`s.

        Raises:
            UsageError: there is no such option.
        """
        ...

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """What to compute in when nobody asks for a dtype."""
        ...

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Why weights of this dtype cannot run here, and what to ask for instead."""
        ...

    def free_bytes(self) -> int:
        """Memory that weights and cache may still take."""
        ...

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Makes a loaded model fast here, in place, with the same results up to rounding.

        Args:
            model: whose weights are there.
            dtype: what it computes in.
            exact: whether that was asked for, so that no part of it may be computed in another.
        """
        ...

    @property
    def size_defaults(self) -> SizeDefaults:
        """How large steps and cache are when nobody says."""
        ...

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Memory that must stay free for the largest step, which `run` runs; 0 where the system
        gives more when asked.
        """
        ...

    def computing(self, model: FlatModel, cache: PagedCache, limits: Capabilities) -> Computing:
        """What computes the steps of a model over this cache."""
        ...

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Brings an array here, best without waiting until it has arrived."""
        ...

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Starts to bring a tensor to the host. What is returned waits for this one alone, and not
        for what was started after it; it may be called more than once.
        """
        ...

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Whether torch failed for want of memory."""
        ...

    def close(self) -> None:
        """Waits until all that was started is done, and writes down what is to be kept."""
        ...


class DeviceOfRanks(Device, Protocol):
    """A device of which several ranks may each have one, or a part. Other processes get copies."""

    @property
    def most_ranks(self) -> int | None:
        """How many there may be here; None: any number."""
        ...

    def environment(self, rank: int, size: int, given: Mapping[str, str]) -> Mapping[str, str]:
        """Variables by which libraries know a rank's process, over those that are given."""
        ...

    def of_rank(self, rank: int, size: int) -> Device:
        """That of one of so many ranks, in the process of that rank."""
        ...

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """Connects the ranks; see `connect_on_this_host`."""
        ...


class CpuDevice:
    """The host's processor and memory."""

    name = "cpu"
    most_ranks: int | None = None
    torch_device = torch.device("cpu")
    size_defaults = SizeDefaults()
    cache_dtypes: Mapping[str, torch.dtype] = MappingProxyType(FLOAT8)

    def configure(self, options: Mapping[str, str]) -> None:
        """There are none."""
        if options:
            raise UsageError(
                f"the torch backend has no options, and was given {', '.join(options)}."
            )

    def __init__(self, num_ranks: int = 1) -> None:
        """`num_ranks`: how many processes of ours share the memory."""
        self._num_ranks = num_ranks

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """Float32 if the checkpoint is, or where bfloat16 would have to be emulated.

        Without the instructions a bfloat16 matrix product takes 4 to 5 times as long from 16 rows
        on (measured on Zen 3 and Cascade Lake); only a single decode row may gain from the smaller
        weights.
        """
        if checkpoint == torch.float32 or not computes_bfloat16():
            return torch.float32
        return torch.bfloat16

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Refuses float16, which few CPUs compute."""
        if dtype == torch.float16:
            return "CPUs do not compute in float16; use --dtype bfloat16 or float32"
        return None

    def free_bytes(self) -> int:
        """What the kernel says is available, within the limit of the control group."""
        return available_bytes() // self._num_ranks

    def environment(self, rank: int, size: int, given: Mapping[str, str]) -> Mapping[str, str]:
        """There is nothing to say."""
        return {}

    def of_rank(self, rank: int, size: int) -> CpuDevice:
        """All ranks are on this host, and share its memory."""
        return CpuDevice(size)

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By gloo."""
        return connect_on_this_host(meeting_point, rank, size)

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Packs the weights of linear layers, those that read the same input together, and chooses
        kernels for those in few bits, which take inputs in bfloat16 unless it is to be `exact`.
        """
        if can_pack(dtype):
            but: set[nn.Module] = set()
            if isinstance(model, PreTrainedModel):
                but = merge_linears(model, dtype)
            pack_linears(model, dtype, but)
        choose_kernels(model, dtype, exact=exact)

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """The cache is small beside what is free; nothing is run."""
        return 0

    def computing(self, model: FlatModel, cache: PagedCache, limits: Capabilities) -> Computing:
        """The kernels that come with torch, over gathered pages."""
        return EagerComputing(model, cache, self.to_device)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """The array's own memory."""
        return torch.from_numpy(array)

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """It is there already."""
        return lambda: tensor

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """The CPU allocator has no error class of its own."""
        return "DefaultCPUAllocator" in str(error)

    def close(self) -> None:
        """Nothing runs behind our back."""
