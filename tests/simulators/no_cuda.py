"""Lets the package index's torch, which is built for CUDA, be imported without CUDA's libraries.

They are gigabytes, and a test that runs on CPUs calls none of them. One small library stands for
all: it has every function that torch's own libraries miss, under the names of all that they ask
for, and each answers that there is no device. Needs gcc and binutils. A torch for CPUs stays as it
is.

    python tests/simulators/no_cuda.py .venv-xla/lib/python3.11/site-packages/torch/lib
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

_NO_DEVICE = 100
"""cudaErrorNoDevice."""
_LIBRARIES = "cu|nv|nccl"
"""How the names of NVIDIA's libraries begin, and those of their functions that have no version."""
_OF_THE_SYSTEM = ("GLIBC", "GCC", "CXXABI", "GOMP", "OMP")
"""How the versions of symbols begin that any Linux has."""


def stand_in(folder: Path) -> list[str]:
    """Puts it beside torch's libraries, and returns the names that it stands for."""
    libraries = sorted(folder.glob("*.so*"))
    present = {library.name for library in libraries}
    needed = {name for library in libraries for name in _needed(library)}
    missing = sorted(name for name in needed - present if re.match(f"lib({_LIBRARIES})", name))
    if not missing:
        return []
    source, script, made = (folder / f"no_cuda.{end}" for end in ("c", "map", "so"))
    versions = _missing_symbols(libraries)
    source.write_text("".join(map(_function, sorted(set().union(*versions.values())))))
    script.write_text(
        "".join(
            f"{version} {{ global: {' '.join(f'{name};' for name in sorted(names))} }};\n"
            for version, names in versions.items()
            if version
        )
    )
    build = ["gcc", "-w", "-fno-builtin", "-shared", "-fPIC", "-o", made, source]
    subprocess.run([*build, f"-Wl,--version-script={script}"], check=True)
    for name in missing:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(made.name)
    return missing


def _needed(library: Path) -> list[str]:
    out = subprocess.run(["readelf", "-d", library], capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", out)


def _missing_symbols(libraries: list[Path]) -> dict[str, set[str]]:
    """Names of functions that no library here has, by the version that is asked for; "" is none."""
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    here: set[str] = set()
    for library in libraries:
        out = subprocess.run(["nm", "-D", library], capture_output=True, text=True).stdout
        for line in out.splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            version = version.lstrip("@")
            if kind != "U":
                here.add(name)
            elif not version.startswith(_OF_THE_SYSTEM):
                wanted[version].add(name)
    # what has no version may be Python's as well
    wanted[""] = {name for name in wanted[""] if re.match(_LIBRARIES, name)}
    return {version: names - here for version, names in wanted.items()}


def _function(name: str) -> str:
    if "String" in name or "ErrorName" in name:
        return f'const char* {name}(void) {{ return "no CUDA here"; }}\n'
    return f"int {name}(void) {{ return {_NO_DEVICE}; }}\n"


if __name__ == "__main__":
    print(*stand_in(Path(sys.argv[1])), sep="\n")
