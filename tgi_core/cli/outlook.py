"""What can be done with the memory that there is: asks a backend for several plans, compares them.

Knows no backend and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tgi_core.config.settings import OPTIONS
from tgi_core.contract import DType, LoadRequest, MemoryPlan, Planner

_TRIES = 4
"""With a larger cache a step takes a little more, so what fits is found in two or three."""

_FLAGS = {option.place[1]: option.name for option in OPTIONS if option.place is not None}
"""By name of the field; those of LoadRequest are named as in the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Settings under which a model fits that did not."""

    flags: str
    """What to add on the command line."""
    plan: MemoryPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A plan, and what is around it."""

    request: LoadRequest
    plan: MemoryPlan
    longest: int
    """The longest sequence that fits, alone in the cache, in tokens; 0 if none does."""
    most_rows: int
    """How many sequences of the planned length fit into the largest cache; 0 if none does."""
    remedies: tuple[Remedy, ...]
    """Empty if all fits, or if nothing helps."""
    least: MemoryPlan
    """Of all plans that were made, the one that takes least."""


def look_at(planner: Planner, request: LoadRequest, memory_bytes: int | None) -> Outlook:
    """Plans a request, and what else could be asked for.

    Args:
        planner: the backend's.
        request: what the user wants.
        memory_bytes: of the machine to plan for; None: this one's.

    Raises:
        SetupError: the model cannot be served whatever memory there is.
    """
    plan = planner(request, memory_bytes)
    length = plan.max_sequence_tokens
    longest = _most(
        planner,
        plan,
        lambda tokens: replace(request, max_sequence_tokens=tokens, cache_tokens=tokens),
        unit_tokens=1,
        limit=plan.longest,
    )
    most_rows = _most(
        planner,
        plan,
        lambda rows: replace(
            request, max_sequence_tokens=length, max_rows=rows, cache_tokens=rows * length
        ),
        unit_tokens=length,
    )
    remedies, least = [], plan
    if plan.missing_bytes:
        for cheaper in plan.cheaper:
            other = planner(cheaper, plan.memory_bytes)
            least = min(least, other, key=lambda each: each.total_bytes)
            if not other.missing_bytes:
                remedies.append(Remedy(flags=_difference(request, cheaper), plan=other))
        if longest:
            shorter = replace(request, max_sequence_tokens=longest, cache_tokens=longest)
            remedies.append(
                Remedy(
                    flags=_difference(request, shorter),
                    plan=planner(shorter, plan.memory_bytes),
                )
            )
    return Outlook(
        request=request,
        plan=plan,
        longest=longest,
        most_rows=most_rows,
        remedies=tuple(remedies),
        least=least,
    )


def _most(
    planner: Planner,
    plan: MemoryPlan,
    request_for: Callable[[int], LoadRequest],
    *,
    unit_tokens: int,
    limit: int | None = None,
) -> int:
    """How much of something fits, of which each takes so many tokens of the cache; 0 if none."""
    token_bytes: float = max(1, plan.cell_bytes)
    fixed_bytes: float = plan.weights_bytes + plan.step_bytes
    for _ in range(_TRIES):
        count = int((plan.memory_bytes - fixed_bytes) / (token_bytes * unit_tokens))
        count = count if limit is None else min(count, limit)
        if count < 1:
            return 0
        tried = planner(request_for(count), plan.memory_bytes)
        if not tried.missing_bytes:
            return count
        # a step takes more with a larger cache: so much is for a token, and the rest for all
        more_tokens = tried.cache_tokens - plan.cache_tokens
        if more_tokens:
            token_bytes = (tried.total_bytes - plan.total_bytes) / more_tokens
        fixed_bytes = tried.total_bytes - token_bytes * tried.cache_tokens
    return 0


def _difference(request: LoadRequest, other: LoadRequest) -> str:
    """The flags that make one request of the other."""
    told = []
    for field, flag in _FLAGS.items():
        value, before = getattr(other, field, None), getattr(request, field, None)
        if value is None or value == before:
            continue
        if isinstance(value, Mapping):
            told += [f"--{flag} {k}={v}" for k, v in value.items() if (before or {}).get(k) != v]
        else:
            told.append(f"--{flag} {value.value if isinstance(value, DType) else value}")
    return " ".join(told)
