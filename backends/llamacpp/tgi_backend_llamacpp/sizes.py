"""Decides how many tokens the cache, a sequence and a step may have. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_backend_llamacpp.gguf import GgufArray, GgufHeader
from tgi_backend_llamacpp.options import Options
from tgi_core.contract import LoadRequest
from tgi_core.errors import DoesNotFit

_DEFAULT_CACHE_BYTES = 2 << 30
_MEMORY_SHARE = 4
"""By default the cache takes at most a quarter of the memory that is free."""
_GRAIN = 256
"""llama.cpp rounds a cache up to this many cells."""
_STREAM_ROWS = 16
"""Rows with a stream each. Larger batches bring no more: SmolLM2 in bfloat16 on one core of an AMX
machine makes 80 tokens a second with 8 rows, 98 with 16, 95 with 32."""
_STREAMS_BESIDE_ROWS = 4
"""Streams for parked sequences."""
_LEAST_STREAM_TOKENS = 4096
"""Shorter ones are not chosen, unless longer ones are of no use: prompts of this length are common,
and in a pool they are served, if slowly."""
_POOL_ROWS = 8
"""In one pool of cells each row also looks at the cells of all others. Measured on Zen 3 with
SmolLM2 in bfloat16 at 32 streams: 19 tokens a second with 64 rows, 57 with 8."""
_POOL_ROW_TOKENS = 1536
"""Steps also slow down with the size of the pool: by 8 % from 10,000 cells to 90,000."""
_DEFAULT_STEP_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """All in tokens but `max_rows` and `num_streams`."""

    max_rows: int
    num_streams: int
    """Streams that the cache is parted into; 0 for one pool."""
    max_sequence_tokens: int
    max_step_tokens: int
    cache_tokens: int


def cache_bytes_per_token(header: GgufHeader, options: Options) -> float:
    """Bytes that the keys and values of one token take over all layers."""
    architecture = header.text("general.architecture")
    blocks = header.number(f"{architecture}.block_count", 1)
    width = header.number(f"{architecture}.embedding_length", 1)
    heads = _first(header, f"{architecture}.attention.head_count", 1)
    key = header.number(f"{architecture}.attention.key_length", width // max(1, heads))
    value = header.number(f"{architecture}.attention.value_length", width // max(1, heads))
    of_layers = header.metadata.get(f"{architecture}.attention.head_count_kv")
    if isinstance(of_layers, GgufArray) and of_layers.numbers:
        heads_of_all = int(sum(of_layers.numbers))
    else:
        heads_of_all = blocks * _first(header, f"{architecture}.attention.head_count_kv", heads)
    return max(1, heads_of_all * (key * options.type_k.bits + value * options.type_v.bits) / 8)


def choose_sizes(
    request: LoadRequest,
    *,
    bytes_per_token: float,
    trained_tokens: int,
    available_bytes: int,
    most_sequences: int,
    streams_allowed: bool,
) -> Sizes:
    """Fills in what the request leaves open.

    The cache is parted into streams if they are allowed and each is long enough: as long as was
    asked for, or else as the model was trained for or `_LEAST_STREAM_TOKENS`.

    Args:
        request: what was asked for.
        bytes_per_token: from `cache_bytes_per_token`.
        trained_tokens: the longest sequence that the model was trained on.
        available_bytes: memory that is free after the weights were loaded.
        most_sequences: what llama.cpp can tell apart.
        streams_allowed: whether each sequence may have a stream of its own.

    Raises:
        DoesNotFit: the cache cannot hold one sequence of the length that was asked for.
    """
    longest = request.max_sequence_tokens or trained_tokens
    step_tokens = request.max_step_tokens or _DEFAULT_STEP_TOKENS
    affordable = int(min(_DEFAULT_CACHE_BYTES, available_bytes / _MEMORY_SHARE) / bytes_per_token)
    if streams_allowed:
        max_rows = min(request.max_rows or _STREAM_ROWS, most_sequences - _STREAMS_BESIDE_ROWS)
        num_streams = max_rows + _STREAMS_BESIDE_ROWS
        most = (request.cache_tokens or affordable) // num_streams // _GRAIN * _GRAIN
        cells = min(most, -(-longest // _GRAIN) * _GRAIN)
        if cells >= min(longest, request.max_sequence_tokens or _LEAST_STREAM_TOKENS):
            return Sizes(
                max_rows=max_rows,
                num_streams=num_streams,
                max_sequence_tokens=min(longest, cells),
                max_step_tokens=step_tokens,
                cache_tokens=num_streams * cells,
            )
    max_rows = min(request.max_rows or _POOL_ROWS, most_sequences)
    cache = request.cache_tokens
    if cache is None:
        wanted = int(_DEFAULT_CACHE_BYTES / bytes_per_token)
        if request.max_sequence_tokens:
            wanted = max(wanted, request.max_sequence_tokens)
        useful = max(longest, max_rows * min(longest, _POOL_ROW_TOKENS))
        cache = min(wanted, int(available_bytes / _MEMORY_SHARE / bytes_per_token), useful)
    if cache < (request.max_sequence_tokens or 1):
        mib = (request.max_sequence_tokens or 1) * bytes_per_token / (1 << 20)
        raise DoesNotFit(
            f"A cache of {cache} tokens does not hold one sequence of {longest} tokens, which "
            f"takes {mib:.0f} MiB; {available_bytes / (1 << 20):.0f} MiB of memory are free. Ask "
            "for a shorter max_sequence_tokens, a larger cache_tokens, or a quantized cache "
            "(the options type_k and type_v)."
        )
    cache = -(-cache // _GRAIN) * _GRAIN
    return Sizes(
        max_rows=max_rows,
        num_streams=0,
        max_sequence_tokens=min(longest, cache),
        max_step_tokens=step_tokens,
        cache_tokens=cache,
    )


def _first(header: GgufHeader, key: str, default: int) -> int:
    """A number, or the first of an array of one number a layer."""
    value = header.metadata.get(key)
    if isinstance(value, GgufArray) and value.numbers:
        return int(value.numbers[0])
    return header.number(key, default)
