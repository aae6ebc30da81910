"""Starts a step: arrays, the backend, masks and boosts meanwhile, then the sampler.

Knows what a plan is, and not what becomes of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from tgi_core.contract import (
    Adjustment,
    Capabilities,
    Embedding,
    Embeds,
    LogitsRows,
    PendingLogits,
    PendingTokens,
    SampledTokens,
    SamplesOnDevice,
    StepBackend,
)
from tgi_core.engine.adjustments import boost
from tgi_core.engine.build import Outputs, build_embedding, build_step
from tgi_core.engine.commit import Committed
from tgi_core.engine.guidance import mask
from tgi_core.engine.pool import pool
from tgi_core.engine.tally import Launched, is_prefill
from tgi_core.engine.wishes import Wishes
from tgi_core.errors import GenerationError
from tgi_core.sampling.reference import sample
from tgi_core.scheduler.plan import StepPlan
from tgi_core.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step whose tokens are not on the host yet."""

    plan: StepPlan
    outputs: Outputs
    logits: PendingLogits
    tokens: PendingTokens
    launched: Launched
    unable: list[tuple[Sequence, str]]
    """Sequences that cannot go on, each with the reason; what is sampled for them is for nobody."""


@dataclass(frozen=True, slots=True)
class _Done:
    """PendingTokens of core's own sampler."""

    tokens: SampledTokens

    def wait(self) -> SampledTokens:
        return self.tokens


def launch(
    plan: StepPlan,
    wishes: Wishes,
    backend: StepBackend,
    sampler: SamplesOnDevice | None,
    capabilities: Capabilities,
    adjustments: Mapping[str, Adjustment],
) -> InFlight:
    """Starts the step of a plan, none of whose rows is to be embedded.

    `sampler` is the backend, if it chooses tokens itself.

    Raises:
        Exception: whatever the backend raises.
    """
    begin = perf_counter()
    step, outputs = build_step(plan)
    batch = wishes.batch(step, outputs)
    if capabilities.logits is LogitsRows.NONE:
        step = replace(step, sampling=batch)
    built = perf_counter()
    computed = None
    pending = backend.step(step)
    unable: list[tuple[Sequence, str]] = []
    if plan.special:
        details = outputs.details
        batch, unadjusted = boost(batch, details, adjustments, capabilities.vocab_size)
        batch, unguided = mask(batch, details, capabilities.vocab_size)
        unable = unadjusted + unguided
    tokens: PendingTokens
    if sampler is not None:
        tokens = sampler.sample(pending, batch)
    else:
        logits = pending.numpy()
        computed = perf_counter()
        tokens = _Done(sample(logits, batch))
    launched = Launched(is_prefill(plan), begin, built, computed)
    return InFlight(plan, outputs, pending, tokens, launched, unable)


def embed(
    plan: StepPlan, backend: StepBackend, embedding: Embedding | None
) -> tuple[Committed, Launched]:
    """Runs the step of a plan whose rows are to be embedded.

    Raises:
        Exception: whatever the backend raises.
    """
    if embedding is None or not isinstance(backend, Embeds):
        raise GenerationError("the backend claims to embed, and has no `embed`")
    began = perf_counter()
    step = build_embedding(plan)
    built = perf_counter()
    vectors = backend.embed(step)
    launched = Launched(True, began, built, perf_counter())
    return pool(plan, vectors, embedding.pooling), launched
