"""Gaudi as the torch backend sees it: memory, transfers, data types, and what computes steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Group
from tgi_backend_torch.shapes.adapters import OPTION, adapter_rank
from tgi_backend_torch.shapes.buckets import Buckets
from tgi_backend_torch.shapes.computing import ShapedComputing
from tgi_backend_torch.shapes.experts import compute_all_experts
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_gaudi import habana
from tgi_backend_gaudi.fused import fuse_norms, fused_attention
from tgi_backend_gaudi.graphs import HpuGraphs, Operations
from tgi_core.contract import Capabilities, SizeDefaults
from tgi_core.errors import UsageError

logger = logging.getLogger(__name__)

_INTERFACE = "HCCL_SOCKET_IFNAME"
_VISIBLE = "HABANA_VISIBLE_MODULES"
"""Places of Gaudis in the machine."""
_FIRST_GENERATION = "GAUDI"
_FUSED = ("off", "norms", "all")
"""What Habana's kernels take the places of, by the option `fused`."""
_GRAPHS = {"on": HpuGraphs, "off": Operations, "true": HpuGraphs, "false": Operations}
"""By the option `graphs`; TGI's variable has the last two."""


class HpuDevice:
    """Satisfies `DeviceOfRanks` of the torch backend: ranks have a Gaudi each."""

    name = "hpu"
    torch_device = habana.DEVICE
    cache_dtypes: Mapping[str, torch.dtype] = MappingProxyType({})
    # what TGI keeps free for the runtime and for graphs: a fifth, and a tenth of the rest
    size_defaults = SizeDefaults(rows=32, step_tokens=1024, cache_bytes=None, of_memory=0.72)

    def __init__(self) -> None:
        habana.start()
        self._compiler: HpuGraphs = HpuGraphs()
        self._quant_config: Path | None = None
        self._fp8: habana.Fp8 | None = None
        self._fused = "norms"

    @property
    def most_ranks(self) -> int | None:
        """One for each Gaudi."""
        return habana.num_devices()

    def environment(self, rank: int, size: int, given: Mapping[str, str]) -> Mapping[str, str]:
        """Which Gaudi is the rank's, of those that the operator names if any, and more: without
        lazy collectives no graph holds what ranks exchange; HCCL listens on the loopback interface
        only, unless the operator says otherwise; Neural Compressor has files for each rank.
        """
        modules = [module for module in given.get(_VISIBLE, "").split(",") if module]
        return {
            "HLS_MODULE_ID": modules[rank] if rank < len(modules) else str(rank),
            "PT_HPU_ENABLE_LAZY_COLLECTIVES": "true",
            _INTERFACE: given.get(_INTERFACE) or "lo",
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
        }

    def of_rank(self, rank: int, size: int) -> HpuDevice:
        """Of a process that has found its Gaudi by the environment."""
        return HpuDevice()

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By HCCL."""
        return habana.connect(meeting_point, rank, size)

    def configure(self, options: Mapping[str, str]) -> None:
        """`graphs`, `fused`, `quant_config`, a file of Intel Neural Compressor, and the rank of
        adapters.

        Raises:
            UsageError: another option, another value, no such file, or graphs without lazy mode.
        """
        wrong = sorted(options.keys() - {"graphs", "fused", "quant_config", OPTION})
        self._fused = options.get("fused", "norms")
        known = options.get("graphs", "on").lower() in _GRAPHS and self._fused in _FUSED
        if wrong or not known:
            raise UsageError(
                "the gaudi backend has the options graphs=on|off, fused=off|norms|all, "
                f"quant_config=FILE and {OPTION}=N, and was "
                f"given {', '.join(f'{key}={options[key]}' for key in (*wrong, *options))}."
            )
        adapter_rank(options)
        self._compiler = _GRAPHS[options.get("graphs", "on").lower()]()
        if self._compiler.recorded and not habana.records_graphs():
            raise UsageError(
                "graphs need lazy mode: set the environment variable PT_HPU_LAZY_MODE=1, or give "
                "--backend-option graphs=off, which is slower."
            )
        config = options.get("quant_config")
        if config is None:
            return
        path = Path(config).expanduser()
        if not path.is_file():
            raise UsageError(f"quant_config names {path}, and there is no such file.")
        if habana.chip() == _FIRST_GENERATION:
            raise UsageError("the first Gaudi has no FP8: leave quant_config out.")
        habana.Fp8(path)  # so that what is wrong with it is told now
        self._quant_config = path

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """bfloat16, which is what the matrix engines are made for."""
        return torch.bfloat16

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Refuses float16 on the first Gaudi."""
        if dtype == torch.float16 and habana.chip() == _FIRST_GENERATION:
            return "the first Gaudi does not compute in float16; use --dtype bfloat16"
        return None

    def free_bytes(self) -> int:
        """What the device has."""
        return habana.free_bytes()

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Measured twice over, for graphs keep memory of their own."""
        return 2 * habana.peak_bytes(run)

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Gives experts fixed shapes, and norms one kernel; measures or quantizes, if that was
        asked for.
        """
        compute_all_experts(model)
        if self._fused != "off" and isinstance(model, PreTrainedModel):
            logger.info("%d norms are fused", fuse_norms(model))
        if self._quant_config is not None:
            self._fp8 = habana.Fp8(self._quant_config)
            self._fp8.apply(model)

    def computing(
        self, model: FlatModel, cache: PagedCache, limits: Capabilities
    ) -> ShapedComputing:
        """Our attention over the cache, in graphs."""
        buckets = Buckets.up_to(
            limits.max_rows, limits.max_step_tokens, limits.max_sequence_tokens, BLOCK_TOKENS
        )
        fused = fused_attention(cache.dtype) if self._fused == "all" else None
        return ShapedComputing(model, cache, buckets, self.to_device, self._compiler, fused)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Without waiting."""
        return torch.from_numpy(array).to(self.torch_device, non_blocking=True)

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """What is returned brings it, and waits for it."""
        return tensor.cpu

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Habana's allocator has no error class of its own."""
        return "Allocation failed" in str(error) or "PT_DEVMEM" in str(error)

    def close(self) -> None:
        """Waits for all that was started, and writes what was measured."""
        habana.synchronize()
        if self._fp8 is not None:
            self._fp8.close()
