"""How much memory this process may still take. Knows nothing of models."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had without swapping, within the limit of the container."""
    free = _meminfo_available(root / "proc/meminfo")
    if free is None:
        # no such file outside Linux: half of all memory is a careful guess
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group = root / "sys/fs/cgroup"
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _meminfo_available(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _number(file: Path) -> int | None:
    """The number in a file; None if there is no file, or the word "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
