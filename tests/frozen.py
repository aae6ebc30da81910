"""The frozen plugins of strangers, installed without pip: metadata here, sources where they are."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

FROZEN = Path(__file__).parent / "kit" / "frozen_1_0"
PACKAGES = (FROZEN / "backend", FROZEN / "dialect")


def install(site: Path) -> list[str]:
    """Writes the metadata; what to put on the path, `site` among it."""
    for package in PACKAGES:
        project = (package / "pyproject.toml").read_text()
        name, version = (
            re.findall(rf'^{key} = "(.+)"$', project, re.MULTILINE)[0]
            for key in ("name", "version")
        )
        group, entry = re.findall(r'entry-points\."(.+)"\]\n(.+)\n', project)[0]
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    return [str(site), *map(str, PACKAGES)]


def digest() -> str:
    """Of all files of the frozen packages, names included; their README may change."""
    found = sha256()
    for package in PACKAGES:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(FROZEN)}\0".encode())
                found.update(path.read_bytes())
    return found.hexdigest()[:16]
