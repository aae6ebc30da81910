"""What a GGUF file will take: asks llama.cpp, which maps the file and reads no weight of it.

What a step takes llama.cpp only tells when it makes a context. Two small ones are made: its buffers
grow evenly with the cells of the cache.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace

import llama_cpp.llama_cpp as llama

from tgi_backend_llamacpp.gguf import read_model
from tgi_backend_llamacpp.llama_log import llama_log
from tgi_backend_llamacpp.loading import check_model, open_context, open_model
from tgi_backend_llamacpp.options import Options, parse_options
from tgi_backend_llamacpp.sizes import Sizes, cache_bytes_per_token, choose_sizes
from tgi_core.contract import LoadRequest, MemoryPlan, available_bytes
from tgi_core.errors import DoesNotFit

_BUFFER = re.compile(r"(?:compute|output) buffer size = +([\d.]+) MiB")
_TRIED = (512, 1024)
"""Cells of the contexts that are made, or of each of their streams."""
_SMALL_CACHE = {"type_k": "q8_0", "type_v": "q8_0"}


def plan_model(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
    """Plans a model; see `Planner`."""
    options = parse_options(request)
    path = request.model.path
    header = read_model(path)
    memory_bytes = available_bytes() if memory_bytes is None else memory_bytes
    with ExitStack() as stack:
        model = open_model(path, stack, lambda *told: None, n_gpu_layers=0, extra_buffers=False)
        check_model(path, model, header)
        weights_bytes = llama.llama_model_size(model)
        trained_tokens = llama.llama_model_n_ctx_train(model)
        per_token = cache_bytes_per_token(header, options)
        sizes = _sizes(
            request,
            per_token,
            trained_tokens,
            memory_bytes - weights_bytes,
            windowed=llama.llama_model_n_swa(model) > 0,
        )
        tried = [each * max(1, sizes.num_streams) for each in _TRIED]
        small, large = (_step_bytes(model, sizes, options, cells) for cells in tried)
    cells = sizes.cache_tokens
    slope = (large - small) / (tried[1] - tried[0])
    return MemoryPlan(
        device="llama.cpp",
        weights=header.text("general.name") or "as in the file",
        weights_bytes=weights_bytes,
        cache_bytes=int(cells * per_token),
        cell_bytes=int(per_token),
        step_bytes=int(small + slope * (cells - tried[0])),
        memory_bytes=memory_bytes,
        cache_tokens=cells,
        max_rows=sizes.max_rows,
        max_sequence_tokens=sizes.max_sequence_tokens,
        max_step_tokens=sizes.max_step_tokens,
        longest=trained_tokens,
        cheaper=()
        if _SMALL_CACHE.items() & request.options.items()
        else (replace(request, options={**request.options, **_SMALL_CACHE}),),
    )


def _sizes(
    request: LoadRequest, per_token: float, trained_tokens: int, free_bytes: int, *, windowed: bool
) -> Sizes:
    def choose(wish: LoadRequest) -> Sizes:
        return choose_sizes(
            wish,
            bytes_per_token=per_token,
            trained_tokens=trained_tokens,
            available_bytes=max(0, free_bytes),
            most_sequences=llama.llama_max_parallel_sequences() // (2 if windowed else 1),
            # as when it is loaded; a plan is one for the CPU
            streams_allowed=not windowed,
        )

    try:
        return choose(request)
    except DoesNotFit:
        least = request.max_sequence_tokens or _TRIED[0]
        return choose(replace(request, cache_tokens=max(least, request.cache_tokens or 0)))


def _step_bytes(model: llama.llama_model_p, sizes: Sizes, options: Options, cells: int) -> float:
    """What llama.cpp keeps for computing, beside a cache of so many cells."""
    with ExitStack() as stack, llama_log().overheard() as lines:
        open_context(
            model, stack, replace(sizes, cache_tokens=cells), options, n_batch=sizes.max_step_tokens
        )
    found = [match for line in lines if (match := _BUFFER.search(line)) is not None]
    return sum(float(match[1]) for match in found) * (1 << 20)
