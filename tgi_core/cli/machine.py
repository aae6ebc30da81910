"""What there is to know of the machine when somebody reports a problem with it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from tgi_core import __version__
from tgi_core.config.sources import docker_label
from tgi_core.contract import available_bytes
from tgi_core.plugin.catalog import PluginKind, installed

_LIBRARIES = ("numpy", "tokenizers", "starlette", "uvicorn", "huggingface_hub")


def describe() -> str:
    """One line: versions, processor, memory, backends. No variable but the image's name."""
    backends = [f"{one.name} {one.version}" for one in installed(PluginKind.BACKEND)]
    facts = {
        "tgi-core": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": _num_cpus(),
        "memory available": f"{available_bytes() / 2**30:.1f} GiB",
        "docker label": docker_label() or "none",
        "backends": ", ".join(backends) or "none",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
    }
    return "; ".join(f"{name}: {fact}" for name, fact in facts.items())


def _num_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
