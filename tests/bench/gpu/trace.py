"""Reads a profiler's trace: how much of the time the device worked, and on what."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


def _events(trace: Path) -> list[dict[str, Any]]:
    events = json.loads(trace.read_text())["traceEvents"]
    return [e for e in events if e.get("cat") in _ON_DEVICE and "dur" in e]


def busy_share(trace: Path) -> float:
    """Time in which some kernel or copy ran, of the time from the first to the last."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in _events(trace))
    if not spans:
        raise ValueError("the trace holds nothing of the device")
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return busy / (reached - spans[0][0])


def kernel_table(trace: Path, steps: int, layers: int, most: int = 14) -> str:
    """Where the time of a step goes, by kernel."""
    took: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for event in _events(trace):
        name = event["name"].partition("<")[0].partition("(")[0][-48:]
        took[name] += event["dur"]
        count[name] += 1
    lines = [
        f"  {sum(count.values()) / steps:.0f} kernels a step, "
        f"{sum(count.values()) / steps / layers:.1f} a layer",
        "  us a step, kernels a step, name",
    ]
    lines += [
        f"  {us / steps:8.0f} {count[name] / steps:6.1f} {name}"
        for name, us in took.most_common(most)
    ]
    return "\n".join(lines)
