"""What an LLM is made from: its arguments by name, and the classes of some."""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorrt_llm.released import taken_by_all

LLM_ARGS = taken_by_all("LLM")
"""Of the PyTorch flow; LLM refuses every other one, as the real class does."""

TOKENS_PER_BLOCK = 32


@dataclass(slots=True, kw_only=True)
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    max_attention_window: list[int] | None = None
    sink_token_length: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None
    cross_kv_cache_fraction: float | None = None
    secondary_offload_min_priority: int | None = None
    event_buffer_max_size: int = 0
    attention_dp_events_gather_period_ms: int = 5
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    use_uvm: bool = False
    max_gpu_total_bytes: int = 0
    dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    tokens_per_block: int = TOKENS_PER_BLOCK

    def __post_init__(self) -> None:
        fraction = self.free_gpu_memory_fraction
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError("free_gpu_memory_fraction must be a float between 0 and 1")
        if self.dtype not in ("auto", "fp8", "nvfp4"):
            raise ValueError(f"there is no cache of {self.dtype}")


@dataclass(slots=True, kw_only=True)
class LoraConfig:
    lora_dir: list[str] = field(default_factory=list)
    lora_ckpt_source: str = "hf"
    max_lora_rank: int = 64
    lora_target_modules: list[str] = field(default_factory=list)
    trtllm_modules_to_hf_modules: dict[str, str] = field(default_factory=dict)
    max_loras: int | None = None
    max_cpu_loras: int | None = None

    def __post_init__(self) -> None:
        assert self.lora_ckpt_source in ("hf", "nemo")
        # without adapters to look at, it must be told what they change
        assert self.lora_dir or self.lora_target_modules
