"""An XLA device as the torch backend sees it: memory, transfers, data types, compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.shapes.adapters import OPTION, adapter_rank
from tgi_backend_torch.shapes.buckets import Buckets
from tgi_backend_torch.shapes.computing import ShapedComputing
from tgi_backend_torch.shapes.experts import compute_all_experts
from torch import Tensor, nn

from tgi_backend_xla.runtime import Runtime
from tgi_core.contract import Capabilities, SizeDefaults, available_bytes
from tgi_core.errors import UsageError

_TPU_SIZES = SizeDefaults(rows=32, step_tokens=1024, cache_bytes=None, of_memory=0.8)
"""A cache in what is left, but for the results of steps that wait to be read."""


class XlaDevice:
    """Satisfies `Device` of the torch backend, and `Compiler` of its shapes."""

    cache_dtypes: Mapping[str, torch.dtype] = MappingProxyType({})
    advice = "a model whose code reads numbers back runs with --backend torch."

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name = f"xla:{runtime.kind.lower()}"
        self._is_tpu = runtime.kind == "TPU"
        self.torch_device = runtime.torch_device
        self.size_defaults = _TPU_SIZES if self._is_tpu else SizeDefaults()

    def configure(self, options: Mapping[str, str]) -> None:
        """`compiled`, a folder that keeps what was compiled, and adapters' rank.

        Raises:
            UsageError: another option, or no folder.
        """
        wrong = sorted(options.keys() - {"compiled", OPTION})
        if wrong:
            raise UsageError(
                f"the xla backend has the options compiled=FOLDER and {OPTION}=N, and was given "
                f"{', '.join(wrong)}."
            )
        adapter_rank(options)
        if "compiled" not in options:
            return
        folder = Path(options["compiled"]).expanduser()
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"compiled names {folder}, which is a file: name a folder.")
        self._runtime.keep_compiled(folder)

    def default_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """What TPUs are made for; elsewhere what needs no emulation."""
        return torch.bfloat16 if self._is_tpu else torch.float32

    def refuses(self, dtype: torch.dtype) -> str | None:
        """Refuses float16, which TPUs lack and CPUs emulate."""
        if dtype == torch.float16:
            return f"XLA emulates float16 on a {self._runtime.kind}; use --dtype bfloat16"
        return None

    def free_bytes(self) -> int:
        """What the device has, or the host for a device that is the host."""
        memory = self._runtime.memory()
        if memory is None:
            return available_bytes()
        total, used, _ = memory
        return max(0, total - used)

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Measured: nobody gives more when asked."""
        before = self._runtime.memory()
        if before is None:
            return 0
        run()
        self._runtime.wait()
        after = self._runtime.memory()
        assert after is not None, "it has counted before"
        return max(0, after[2] - before[1])

    def prepare(self, model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
        """Gives experts fixed shapes. XLA lays weights out by itself."""
        compute_all_experts(model)

    def computing(
        self, model: FlatModel, cache: PagedCache, limits: Capabilities
    ) -> ShapedComputing:
        """Our attention over the cache, compiled."""
        buckets = Buckets.up_to(
            limits.max_rows, limits.max_step_tokens, limits.max_sequence_tokens, BLOCK_TOKENS
        )
        return ShapedComputing(model, cache, buckets, self.to_device, self)

    def compiled(self, forward: nn.Module) -> Callable[..., Tensor]:
        """See `Compiler.compiled`."""
        return self._runtime.compiled(forward)

    def launch(self) -> None:
        """What was compiled starts by itself."""

    def wait(self) -> None:
        """For the device."""
        self._runtime.wait()

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """A copy; the array may be changed at once."""
        return torch.from_numpy(array).to(self.torch_device)

    def to_host(self, tensor: Tensor) -> Callable[[], Tensor]:
        """What is returned brings it, and waits for it."""
        return tensor.cpu

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """XLA's status has no class of its own."""
        return "RESOURCE_EXHAUSTED" in str(error)

    def close(self) -> None:
        """Waits for all that was started."""
        self._runtime.wait()
