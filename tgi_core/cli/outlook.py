"""What can be done with the memory that there is: asks a backend for several plans, compares them.

Knows no backend and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt

from tgi_core.config.settings import OPTIONS
from tgi_core.contract import DType, LoadRequest, MemoryPlan, Planner

_TRIES = 8
"""Where a step takes a little more with a larger cache what fits is found in two or three; where it
takes the square, as with prompts of encoders, in more."""

_CLOSE = 0.02
"""Of memory: with so little left the most is found."""

_MANY_TOKENS = 1 << 24
"""Nobody has more, even if memory does not end it: some models keep nothing of a token."""

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
        known=length,
        limit=plan.longest or _MANY_TOKENS,
    )
    most_rows = _most(
        planner,
        plan,
        lambda rows: replace(
            request, max_sequence_tokens=length, max_rows=rows, cache_tokens=rows * length
        ),
        unit_tokens=length,
        known=min(plan.max_rows, plan.cache_tokens // length),
        limit=max(1, _MANY_TOKENS // length),
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
    known: int,
    limit: int,
) -> int:
    """How much of something fits, of which each takes so many tokens of the cache; 0 if none.

    Tries what would take all memory if it grew in a straight line, and else what is in the middle.

    Args:
        planner: the backend's.
        plan: what was planned at first.
        request_for: asks for so much.
        unit_tokens: tokens of the cache for each.
        known: how much the plan has.
        limit: how much there may be at most.
    """
    fits, too_much = 0 if plan.missing_bytes else known, limit + 1
    if plan.cell_bytes:
        before: float = plan.cache_tokens / unit_tokens
        count = int(plan.room_bytes / (plan.cell_bytes * unit_tokens))
    else:
        before, count = known, known * plan.memory_bytes // plan.total_bytes
    before_bytes = plan.total_bytes
    for turn in range(_TRIES):
        if too_much - fits < 2 or plan.weights_bytes > plan.memory_bytes:
            break
        count = min(max(count, fits + 1), too_much - 1)
        tried = planner(request_for(count), plan.memory_bytes)
        left = plan.memory_bytes - tried.total_bytes
        if left < 0:
            too_much = count
        else:
            fits = count
            if left < _CLOSE * plan.memory_bytes:
                break
        more, more_bytes = count - before, tried.total_bytes - before_bytes
        before, before_bytes = count, tried.total_bytes
        line = count + int(left * more / more_bytes) if more_bytes else 0
        sensible = turn % 2 == 0 and fits < line < too_much
        count = line if sensible else isqrt(max(1, fits) * too_much)
    return fits


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
