"""How a plan is shown: as a table for people, or as JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from tgi_core.cli.outlook import Outlook
from tgi_core.contract import MemoryPlan

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def as_table(outlook: Outlook, backend: str, note: str | None) -> str:
    """Lines of text; `note` is shown at the top."""
    plan = outlook.plan
    lines = [f"{outlook.request.model.reference}, {backend} on {plan.device}"]
    if note:
        lines.append(f"note: {note}")
    rows = [
        ("weights", plan.weights_bytes, plan.weights),
        (
            "KV cache",
            plan.cache_bytes,
            f"{plan.cache_tokens:,} tokens of {_short(plan.cell_bytes)}",
        ),
        (
            "largest step",
            plan.step_bytes,
            f"{plan.max_step_tokens:,} tokens, at the end of {plan.max_sequence_tokens:,}",
        ),
        ("all", plan.total_bytes, f"of {size(plan.memory_bytes)}"),
    ]
    widest = max(len(size(num_bytes)) for _, num_bytes, _ in rows)
    lines += ["", *(f"{name:<14}{size(n):>{widest}}   {words}" for name, n, words in rows), ""]
    lines += _verdict(outlook)
    return "\n".join(lines)


def as_json(outlook: Outlook, backend: str, note: str | None) -> str:
    """One object; sizes are in bytes."""
    content: dict[str, Any] = {
        "model": outlook.request.model.reference,
        "backend": backend,
        "note": note,
        "fits": not outlook.plan.missing_bytes,
        **_numbers(outlook.plan),
        "longest_that_fits": outlook.longest,
        "most_rows_that_fit": outlook.most_rows,
        "remedies": [
            {"flags": remedy.flags, **_numbers(remedy.plan)} for remedy in outlook.remedies
        ],
    }
    return json.dumps(content, indent=2)


def size(num_bytes: int) -> str:
    """In GiB if that is not too coarse, else in MiB."""
    if num_bytes >= 10 * _GIB:
        return f"{num_bytes / _GIB:,.1f} GiB"
    return f"{num_bytes / _MIB:,.1f} MiB"


def _verdict(outlook: Outlook) -> list[str]:
    plan = outlook.plan
    if not plan.missing_bytes:
        lines = ["It fits."]
        made_for = " (what the model was made for)" if outlook.longest == plan.longest else ""
        lines.append(f"Longest sequence that fits: {outlook.longest:,} tokens{made_for}.")
        if outlook.most_rows:
            lines.append(
                f"Sequences of {plan.max_sequence_tokens:,} tokens that fit at once: "
                f"{outlook.most_rows:,}, with --max-batch-size {outlook.most_rows} "
                f"--cache-tokens {outlook.most_rows * plan.max_sequence_tokens}."
            )
        return lines
    lines = [f"It does not fit: {size(plan.missing_bytes)} are missing."]
    if outlook.remedies:
        lines.append("It fits with")
        width = max(len(remedy.flags) for remedy in outlook.remedies)
        lines += [
            f"  {remedy.flags:<{width}}   {size(remedy.plan.total_bytes)}"
            for remedy in outlook.remedies
        ]
    else:
        lines.append(
            f"Nothing that this backend can do makes it fit: {size(outlook.least.total_bytes)} is "
            "the least. Take a machine with more memory, or a smaller model."
        )
    return lines


def _numbers(plan: MemoryPlan) -> dict[str, Any]:
    numbers = {
        field.name: getattr(plan, field.name) for field in fields(plan) if field.name != "cheaper"
    }
    return {**numbers, "total_bytes": plan.total_bytes, "missing_bytes": plan.missing_bytes}


def _short(num_bytes: int) -> str:
    return f"{num_bytes / _KIB:,.1f} KiB" if num_bytes >= _KIB else f"{num_bytes} bytes"
