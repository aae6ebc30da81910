"""How a backend introduces itself, and what it is told to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from tgi_core.contract.engine import Engine
from tgi_core.contract.plan import Planner
from tgi_core.contract.quantize import Quantizer
from tgi_core.contract.step import StepBackend


class ModelFormat(Enum):
    """How a model lies on disk."""

    SAFETENSORS = "safetensors"
    """A Hugging Face folder: config.json and *.safetensors."""
    ADAPTER = "adapter"
    """An adapter for a model: a folder of PEFT with adapter_config.json. It is served beside its
    model."""
    GGUF = "gguf"
    """One file in llama.cpp's format."""
    OTHER = "other"
    """Anything else; a backend looks at the path itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model that is on this machine."""

    reference: str
    """What the user wrote."""
    path: Path
    """A folder, or a file."""
    format: ModelFormat
    commit: str | None = None
    """Of the repository on the hub that it came from."""
    pipeline_tag: str | None = None
    """The hub's word for what the model is for, such as text-generation."""


class DType(Enum):
    """What weights and activations are computed in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Progress(Protocol):
    """Shows how far loading or warming up has come."""

    def __call__(self, phase: str, done: float, total: float, unit: str = "") -> None:
        """Reports `done` of `total` `unit` of a phase such as "loading weights"."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What to load, and how large. None leaves a choice to the backend."""

    model: ModelFiles
    dtype: DType | None = None
    quantize: str | None = None
    """What to make of the weights, in the backend's own words."""
    kv_cache_dtype: str | None = None
    """What keys and values are kept in, in the backend's own words."""
    device: str | None = None
    num_shards: int | None = None
    """Devices, or processes, that share the model."""
    max_rows: int | None = None
    """Most sequences that should run at once."""
    max_sequence_tokens: int | None = None
    """Longest sequence to serve."""
    max_step_tokens: int | None = None
    """Most tokens in one step."""
    cache_tokens: int | None = None
    """Size of the KV cache."""
    num_threads: int | None = None
    max_adapters: int | None = None
    """Most adapters that are held at once."""
    max_adapter_rank: int | None = None
    """Adapters of a higher rank are refused."""
    options: Mapping[str, str] = field(default_factory=dict)
    """`--backend-option KEY=VALUE`: the backend's own settings. Unknown keys must be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a backend found on this machine without loading anything."""

    available: bool
    devices: tuple[str, ...] = ()
    reason: str = ""
    """If not available, or for those alone who name it: why, and what to do about it."""
    notes: tuple[str, ...] = ()
    """What an operator should know, such as a fault of the CPU that was worked round."""
    by_name_only: bool = False
    """It can serve here, and others do it better: only `--backend` chooses it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backend can serve a model, from a glance at its files."""

    accepted: bool
    reason: str = ""
    """If not: why."""


class Converter(Protocol):
    """Makes a folder that a backend serves without any work before."""

    def __call__(
        self, model: ModelFiles, target: Path, quantize: str | None, progress: Progress
    ) -> None:
        """Writes the folder `target`, which may not exist yet.

        Raises:
            SetupError: the model cannot be converted, or the target not be written; then there is
                no target.
        """
        ...


class BackendKind(Enum):
    """Which of the two contracts a backend implements."""

    STEP = "step"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What `tgi_backend` returns. Making one must import no device library."""

    name: str
    contract: tuple[int, int]
    """The `CONTRACT` that the backend was written for, as a literal."""
    probe: Callable[[], Probe]
    """Never raises; may import the device library."""
    accepts: Callable[[ModelFiles], Verdict]
    """Looks at names and small files only."""
    create: Callable[[], StepBackend] | Callable[[], Engine]
    kind: BackendKind = BackendKind.STEP
    priority: int = 0
    """Of the backends that are available and accept a model the highest priority is taken; two
    alike are an error that names both. Accelerators: 100; a generic CPU path: 0."""
    description: str = ""
    convert: Converter | None = None
    """What `tgi convert` runs, for backends that work ahead of time."""
    shards: bool = False
    """Whether it heeds `LoadRequest.num_shards`; core refuses more than one for it otherwise."""
    plan: Planner | None = None
    """What `tgi plan` runs; may import the device library."""
    quantize: Quantizer | None = None
    """What `tgi quantize` runs; may import the device library."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of TGI's server for this device, and which of the backend's options
    each sets; `--backend-option` comes first."""
    idle_variables: Mapping[str, str] = field(default_factory=dict)
    """Others of them, and why they have no effect: whoever sets one is told."""


class PluginModule(Protocol):
    """The module (or object) that an entry point in the group `tgi.backends` names."""

    def tgi_backend(self) -> BackendSpec:
        """Marked with `tgi_core.plugin.hookimpl`."""
        ...
