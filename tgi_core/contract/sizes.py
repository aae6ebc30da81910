"""How large a paged cache and a step may be, for backends that page. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tgi_core.contract.backend import LoadRequest
from tgi_core.contract.capabilities import ANY_LENGTH, Capabilities, Fork, LogitsRows
from tgi_core.errors import DoesNotFit, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeDefaults:
    """What a device takes when nobody says; these are a CPU's."""

    rows: int = 64
    """More rows hardly raise the throughput of a CPU, and each waits longer."""
    step_tokens: int = 512
    """A longer chunk of prefill keeps the decoding rows waiting; a shorter one computes slower."""
    cache_bytes: int | None = 2 << 30
    """Most that the cache takes; None: no limit of its own."""
    of_memory: float = 0.25
    """Most that the cache takes of what is free."""


CPU_SIZES = SizeDefaults()

_SEQUENCES_PER_ROW = 4
"""Room for sequences that are parked for their prefix."""

_LEAST_SEQUENCE_TOKENS = 2048
"""A cache that we size ourselves should hold a conversation of this length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What goes into Capabilities."""

    num_blocks: int
    max_rows: int
    max_sequences: int
    max_step_tokens: int
    max_sequence_tokens: int

    def capabilities(self, device: str, vocab_size: int, block_tokens: int) -> Capabilities:
        """Those of a backend that takes flat batches of any rows over a cache of such blocks."""
        return Capabilities(
            device=device,
            vocab_size=vocab_size,
            max_sequences=self.max_sequences,
            max_rows=self.max_rows,
            max_step_tokens=self.max_step_tokens,
            max_sequence_tokens=self.max_sequence_tokens,
            max_prefill_tokens=self.max_step_tokens,
            cache_tokens=self.num_blocks * block_tokens,
            cache_grain_tokens=block_tokens,
            fork=Fork.ANY,
            mixed=True,
            chunked=True,
            draft_lengths=(ANY_LENGTH,),
            logits=LogitsRows.ALL,
        )


def choose_sizes(
    request: LoadRequest,
    *,
    cell_bytes: int,
    block_tokens: int,
    free_bytes: int,
    longest: int | None,
    defaults: SizeDefaults = CPU_SIZES,
) -> Sizes:
    """Takes what the request asks for, and chooses the rest.

    Args:
        request: what the user wants.
        cell_bytes: cache memory of one token in all layers.
        block_tokens: tokens in a block; the cache is rounded up to whole blocks.
        free_bytes: memory that is left beside the weights.
        longest: positions that the model was made for; None if it does not say.
        defaults: what suits the device.

    Raises:
        DoesNotFit: the cache does not hold one sequence, or memory does not hold the cache.
        UsageError: a size is not positive, or sequences longer than the model's are asked for.
    """
    for name in ("max_rows", "max_sequence_tokens", "max_step_tokens", "cache_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    asked = request.max_sequence_tokens
    if asked is not None and longest is not None and asked > longest:
        raise UsageError(
            f"sequences of {asked} tokens were asked for, and the model is made for at most "
            f"{longest}: lower --max-total-tokens."
        )
    max_rows, max_step_tokens = step_limits(request, defaults)
    cache_tokens = request.cache_tokens
    if cache_tokens is None:
        cache_tokens = _affordable_tokens(
            max_rows, asked or longest, cell_bytes, block_tokens, free_bytes, defaults
        )
        least = min(asked or longest or _LEAST_SEQUENCE_TOKENS, _LEAST_SEQUENCE_TOKENS)
    else:
        cache_tokens = -(-cache_tokens // block_tokens) * block_tokens
        least = 1
        if cache_tokens * cell_bytes > free_bytes:
            raise DoesNotFit(
                f"a cache of {cache_tokens} tokens takes {_mib(cache_tokens * cell_bytes)}, and "
                f"{_mib(free_bytes)} are free beside the weights: ask for fewer cache tokens."
            )
    least = max(least, asked or 0)
    if cache_tokens < least:
        raise DoesNotFit(
            f"the cache holds {cache_tokens} tokens ({_mib(cache_tokens * cell_bytes)} of "
            f"{_mib(free_bytes)} free), and one sequence needs {least}: give it more cache tokens, "
            "shorter sequences, a smaller dtype, or a machine with more memory."
        )
    return Sizes(
        num_blocks=cache_tokens // block_tokens,
        max_rows=max_rows,
        max_sequences=_SEQUENCES_PER_ROW * max_rows,
        max_step_tokens=max_step_tokens,
        max_sequence_tokens=asked or min(longest or cache_tokens, cache_tokens),
    )


def step_limits(request: LoadRequest, defaults: SizeDefaults) -> tuple[int, int]:
    """Most rows and most tokens in a step: what is asked for, or what suits the device."""
    max_rows = request.max_rows or defaults.rows
    return max_rows, request.max_step_tokens or max(defaults.step_tokens, max_rows)


def plan_sizes(
    request: LoadRequest,
    *,
    cell_bytes: int,
    block_tokens: int,
    free_bytes: int,
    longest: int | None,
    defaults: SizeDefaults = CPU_SIZES,
) -> Sizes:
    """What `choose_sizes` chooses; where it would say that memory does not suffice, what was asked
    for, or the least cache that is of any use.

    Raises:
        DoesNotFit: a sequence is longer than the cache that was asked for.
        UsageError: see `choose_sizes`.
    """
    try:
        return choose_sizes(
            request,
            cell_bytes=cell_bytes,
            block_tokens=block_tokens,
            free_bytes=free_bytes,
            longest=longest,
            defaults=defaults,
        )
    except DoesNotFit:
        least = min(longest or _LEAST_SEQUENCE_TOKENS, _LEAST_SEQUENCE_TOKENS)
        cache_tokens = request.cache_tokens or request.max_sequence_tokens or least
        return choose_sizes(
            replace(request, cache_tokens=cache_tokens),
            cell_bytes=cell_bytes,
            block_tokens=block_tokens,
            free_bytes=(cache_tokens + block_tokens) * cell_bytes,
            longest=longest,
            defaults=defaults,
        )


def _affordable_tokens(
    max_rows: int,
    longest: int | None,
    cell_bytes: int,
    block_tokens: int,
    free_bytes: int,
    defaults: SizeDefaults,
) -> int:
    """Whole blocks in the least of the device's limits and what all rows could fill."""
    affordable = max(0, int(free_bytes * defaults.of_memory))
    if defaults.cache_bytes is not None:
        affordable = min(affordable, defaults.cache_bytes)
    tokens = affordable // cell_bytes
    if longest is not None:
        tokens = min(tokens, max_rows * -(-longest // block_tokens) * block_tokens)
    return tokens // block_tokens * block_tokens


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
