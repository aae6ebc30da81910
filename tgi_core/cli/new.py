"""`tgi new backend NAME`: writes a package with a backend that works and its tests.

Knows nothing of what is in the templates beyond the names of their placeholders.
"""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from tgi_core import __version__
from tgi_core.contract import CONTRACT
from tgi_core.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi new`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    backend = kinds.add_parser("backend", help="a package with a backend and its tests")
    backend.add_argument("name", metavar="NAME", help="what users will write after --backend")
    backend.add_argument(
        "--directory",
        type=Path,
        metavar="D",
        help="where to write it (default: tgi-backend-NAME in the current folder)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the package and says what to do next."""
    directory = args.directory or Path(f"tgi-backend-{args.name}")
    write_backend(args.name, directory)
    print(f'{directory}: written. Next: cd {directory} && pip install -e ".[test]" && pytest')
    return 0


def write_backend(name: str, directory: Path) -> None:
    """Renders the templates of a backend into a new or empty folder.

    Raises:
        UsageError: the name is no fit, or the folder is not empty.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a backend: use lower-case letters and digits, in words joined "
            "by - or _."
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already, and not an empty folder.")
    module = "tgi_backend_" + name.replace("-", "_")
    values = {
        "name": name,
        "module": module,
        "distribution": f"tgi-backend-{name}".replace("_", "-"),
        "core": __version__,
        "contract": str(CONTRACT),
    }
    targets = {
        "pyproject.toml.tmpl": Path("pyproject.toml"),
        "README.md.tmpl": Path("README.md"),
        "module.py.tmpl": Path(f"{module}.py"),
        "test_conformance.py.tmpl": Path("tests", "test_conformance.py"),
    }
    templates = files("tgi_core.cli") / "templates" / "backend"
    for template, target in targets.items():
        path = directory / target
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / template).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(values), encoding="utf-8")
