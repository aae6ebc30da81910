"""What the real package takes and gives in each release, as `released/` records of its sources.

The simulator takes what every recorded release takes, and nothing else.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "released"


@dataclass(slots=True)
class Call:
    """Of a function or a class."""

    positional: list[str]
    """In their order; these may be given by name as well."""
    defaults: dict[str, str]
    """As they are written, "" for none; of all parameters, those by name only too."""


@dataclass(slots=True)
class Release:
    calls: dict[str, Call] = field(default_factory=dict)
    attributes: dict[str, set[str]] = field(default_factory=dict)
    """Of what it gives, and the bases of its errors."""
    modules: dict[str, set[str]] = field(default_factory=dict)
    """What may be imported from where."""


def releases() -> dict[str, Release]:
    """All that are recorded, by version."""
    return {file.stem: _read(file.read_text()) for file in sorted(_FOLDER.glob("*.txt"))}


def taken_by_all(call: str) -> set[str]:
    """The parameters that each release has, but for its private ones."""
    each = [set(release.calls[call].defaults) for release in releases().values()]
    return {name for name in set.intersection(*each) if not name.startswith("_")}


def _read(text: str) -> Release:
    release = Release()
    for entry in text.split("\n\n"):
        lines = [line for line in entry.splitlines() if not line.startswith("#")]
        said = " ".join(" ".join(lines).split())
        if said.startswith("from "):
            [statement] = ast.parse(said).body
            assert isinstance(statement, ast.ImportFrom) and statement.module
            release.modules[statement.module] = {alias.name for alias in statement.names}
        elif said.endswith(")"):
            name, _, parameters = said.partition("(")
            release.calls[name] = _call(f"({parameters}")
        elif said:
            name, _, attributes = said.partition(": ")
            release.attributes[name] = set(attributes.split(", "))
    return release


def _call(parameters: str) -> Call:
    [function] = ast.parse(f"def call{parameters}: ...").body
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    required = [""] * (len(given.args) - len(given.defaults))
    written = [*required, *map(ast.unparse, given.defaults)]
    by_name = [ast.unparse(each) if each else "" for each in given.kw_defaults]
    names = [arg.arg for arg in (*given.args, *given.kwonlyargs)]
    return Call(
        positional=[arg.arg for arg in given.args],
        defaults=dict(zip(names, [*written, *by_name], strict=True)),
    )
