"""SchedulerLimits: what a step may hold, by what the backend can do and the operator allows."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_core.contract import AdapterRows, Capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """What a step may hold, and what the backend can mix. See `Capabilities`."""

    max_rows: int
    max_step_tokens: int
    max_chunk_tokens: int
    """Longest row."""
    mixed: bool
    chunked: bool
    max_block_tokens: int = 0
    """Longest run of tokens that see one another: beside it all rows may decode."""
    one_adapter: bool = False
    """Whether all rows of a step have the same adapter, or none."""
    embeds: bool = False
    """Whether there may be prompts to be embedded."""

    @classmethod
    def of(
        cls,
        capabilities: Capabilities,
        max_step_tokens: int | None = None,
        max_chunk_tokens: int | None = None,
    ) -> SchedulerLimits:
        """The capabilities, with a smaller token budget and smaller chunks if wanted.

        Where prompts cannot be cut no budget may be smaller than the longest of them.
        """
        if not capabilities.chunked or capabilities.encoder is not None:
            max_step_tokens = max_chunk_tokens = None
        chunk = capabilities.max_prefill_tokens
        if max_chunk_tokens is not None and capabilities.chunked:
            chunk = min(chunk, max_chunk_tokens)
        step_tokens = min(
            max_step_tokens or capabilities.max_step_tokens, capabilities.max_step_tokens
        )
        return cls(
            max_rows=capabilities.max_rows,
            max_step_tokens=step_tokens,
            max_block_tokens=step_tokens - min(capabilities.max_rows, step_tokens - 1),
            max_chunk_tokens=chunk,
            mixed=capabilities.mixed,
            chunked=capabilities.chunked,
            one_adapter=capabilities.adapters is AdapterRows.STEP,
            embeds=capabilities.embedding is not None,
        )
