"""What the operator decides, as typed, frozen data: one class for each consumer."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgi_core.contract import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What to load, and how large."""

    reference: str
    """A Hugging Face folder or a GGUF file."""
    backend: str | None = None
    """None lets the model and the machine decide."""
    dtype: DType | None = None
    quantize: str | None = None
    kv_cache_dtype: str | None = None
    device: str | None = None
    max_rows: int | None = None
    max_sequence_tokens: int | None = None
    cache_tokens: int | None = None
    num_threads: int | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    """How requests share the engine."""

    queue_policy: str = "fcfs"
    max_step_tokens: int | None = None
    max_chunk_tokens: int | None = None
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """Which plugins are left out."""

    disabled: tuple[str, ...] = ()
    only_builtin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where and how much to serve."""

    host: str = "127.0.0.1"
    port: int = 3000
    served_model_name: str | None = None
    """What clients see as the model's name; None takes the reference."""
    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_client_batch_size: int = 4
    payload_limit: int = 2_000_000
    max_input_tokens: int | None = None
    log_level: str = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them."""

    model: ModelSettings
    scheduling: SchedulingSettings
    plugins: PluginSettings
    server: ServerSettings
