"""Examines the CUDA backend by the conformance kit, where nothing is installed.

    python -m tests.bench.gpu.report FOLDER

Writes cuda.conformance.json, which the backend ships; it takes msgspec. What an installation would
leave behind, a folder of metadata, is made of pyproject.toml.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

import tomllib

ROOT = Path(__file__).parents[3]


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    return report("cuda", folder / "cuda.conformance.json")


def report(backend: str, output: Path) -> int:
    """The exit status of `tgi conformance --backend BACKEND --output OUTPUT`."""
    try:
        from tgi_core.testing import examine
    except ImportError as error:
        print(f"not made: a report is written with a package that is not here ({error})")
        return 0
    with TemporaryDirectory() as metadata:
        for name in {"torch", backend}:
            _pretend_installed(ROOT / "backends" / name / "pyproject.toml", Path(metadata))
        sys.path.insert(0, metadata)
        return examine.run(
            Namespace(
                backend=backend,
                model=None,
                backend_option=[],
                tests=None,
                simulator="",
                output=output,
                save=False,
            )
        )


def _pretend_installed(pyproject: Path, folder: Path) -> None:
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    kept = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    kept.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    (kept / "METADATA").write_text(text, encoding="utf-8")
    points = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items())
        for group, each in project["entry-points"].items()
    )
    (kept / "entry_points.txt").write_text(points, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
