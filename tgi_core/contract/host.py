"""What the host has: memory that may still be taken, and a CPU. Knows nothing of models."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had without swapping, within the limit of the control group.

    Args:
        root: where proc/ and sys/ lie.
    """
    free = _meminfo_available(root / "proc/meminfo")
    if free is None:
        # no such file outside Linux: half of all memory is a careful guess
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    left = _left_in_group(root / "sys/fs/cgroup")
    return free if left is None else max(0, min(free, left))


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first CPU can do, as Linux calls it: "avx2", "amx_tile". Empty if nobody tells."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next(
        (frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset()
    )


def _meminfo_available(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _left_in_group(group: Path) -> int | None:
    """What a container's memory limit leaves; None without a limit."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return limit - used + _reclaimable(group / "memory.stat")


def _reclaimable(stat: Path) -> int:
    """Pages of files count as used and are given up on demand."""
    try:
        return int(dict(line.split() for line in stat.read_text().splitlines())["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0
