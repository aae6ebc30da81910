"""From the operator's settings to what a backend is asked to load."""

from __future__ import annotations

from tgi_core.config.settings import Settings
from tgi_core.contract import LoadRequest, ModelFiles


def load_request(settings: Settings, files: ModelFiles) -> LoadRequest:
    """What `tgi serve` asks for, and `tgi plan` plans."""
    model = settings.model
    return LoadRequest(
        model=files,
        dtype=model.dtype,
        quantize=model.quantize,
        kv_cache_dtype=model.kv_cache_dtype,
        device=model.device,
        num_shards=model.num_shards,
        max_rows=model.max_rows,
        max_sequence_tokens=model.max_sequence_tokens,
        max_step_tokens=settings.scheduling.max_step_tokens,
        cache_tokens=model.cache_tokens,
        num_threads=model.num_threads,
        max_adapters=settings.adapters.max_held,
        max_adapter_rank=settings.adapters.max_rank,
        options=model.options,
    )
