"""What the installed torch is built for, read from its version file: importing it takes seconds.

Imports no torch, so that the probes of GPU backends cost nothing where torch is that of CPUs.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def torch_version() -> ModuleType:
    """The module `torch.version`: `__version__`, and `cuda`, `hip`, `xpu`, None or a version.

    Raises:
        ImportError: there is no torch, or it is broken.
    """
    known = sys.modules.get("torch.version")
    if known is not None:
        return known
    found = PathFinder.find_spec("torch")
    if found is None or found.origin is None:
        raise ImportError("there is no torch")
    path = Path(found.origin).with_name("version.py")
    spec = spec_from_file_location("tgi_backend_torch._torch_version", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is missing")
    version = module_from_spec(spec)
    spec.loader.exec_module(version)
    return version
