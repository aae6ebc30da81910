"""LLM, the door to it all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import tensorrt_llm
from tensorrt_llm.executor.request import LoRARequest
from tensorrt_llm.executor.result import RequestError, RequestOutput
from tensorrt_llm.executor.worker import Worker
from tensorrt_llm.llmapi.llm_args import LLM_ARGS, KvCacheConfig
from tensorrt_llm.llmapi.utils import get_device_count
from tensorrt_llm.sampler import check_heeded
from tensorrt_llm.sampling_params import SamplingParams


class LLM:
    def __init__(self, model: str | Path, **kwargs: Any) -> None:
        for key in kwargs:
            if key not in LLM_ARGS:
                raise ValueError(f"LLM got invalid argument: {key}")
        gpus = kwargs.get("tensor_parallel_size", 1)
        if gpus > get_device_count():
            raise RuntimeError(
                f"Only {get_device_count()} GPUs are available, but {gpus} are required."
            )
        if kwargs.get("dtype", "auto") not in ("auto", "float16", "bfloat16", "float32"):
            raise ValueError(f"no dtype {kwargs['dtype']}")
        self._path = Path(model)
        self._max_num_tokens = kwargs.get("max_num_tokens", 8192)
        self._chunked = kwargs.get("enable_chunked_prefill", False)
        self._guided = kwargs.get("guided_decoding_backend")
        assert self._guided in (None, "xgrammar", "llguidance")
        self._stats = kwargs.get("enable_iter_perf_stats", False)
        self._lora = kwargs.get("lora_config")
        self._worker: Worker | None = Worker(
            self._path,
            max_batch_size=kwargs.get("max_batch_size") or 2048,
            max_seq_len=kwargs.get("max_seq_len"),
            cache=kwargs.get("kv_cache_config") or KvCacheConfig(),
            end_token=self._end_tokens()[0],
            guided=self._guided is not None,
        )

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: LoRARequest | None = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        trace_headers: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        *,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self._worker is None or self._worker.is_dead:
            raise RuntimeError("LLM is shutting down")
        params = sampling_params or SamplingParams()
        check_heeded(params, tensorrt_llm.__version__)
        prompt = inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs
        assert isinstance(prompt, list) and prompt
        stops = set(params.stop_token_ids or ())
        if params.end_id is None:
            # the real class adds the ends of generation_config.json, whatever ignore_eos says
            params.end_id, *more = self._end_tokens()
            stops |= set(more)
        if not self._chunked and len(prompt) > self._max_num_tokens:
            raise RequestError(f"prompt length ({len(prompt)}) exceeds max_num_tokens")
        if params.guided_decoding is not None and self._guided is None:
            raise ValueError("guided decoding is not enabled")
        if lora_request is not None and self._lora is None:
            raise ValueError("LoRA is not enabled")
        assert streaming, "the backend streams"
        end = None if params.ignore_eos else params.end_id
        return self._worker.add(prompt, params, stops, end, lora_request, cache_salt)

    async def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        assert self._stats, "enable_iter_perf_stats is off"
        while self._worker is not None:
            if not self._worker.stats:
                await asyncio.sleep(min(timeout or 0, 0.02))
                if not self._worker.stats:
                    return
            yield self._worker.stats.popleft()

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    def _end_tokens(self) -> list[int]:
        file = self._path / "generation_config.json"
        ends = json.loads(file.read_text()).get("eos_token_id", 0) if file.is_file() else 0
        return ends if isinstance(ends, list) else [ends]
