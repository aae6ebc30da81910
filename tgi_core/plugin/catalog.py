"""Which backends and plugins are installed, read from package metadata.

Imports none of them, so it is quick and cannot fail because one of them is broken. Knows nothing
of hooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points

from tgi_core.errors import PluginConflict, UnknownPlugin


class PluginKind(Enum):
    """What an entry point offers; the value is what people read."""

    BACKEND = "backend"
    """Group `tgi.backends`: one object, loaded by name, in the engine process."""
    PLUGIN = "plugin"
    """Group `tgi.plugins`: all are loaded, in any process."""

    @property
    def group(self) -> str:
        """The entry-point group."""
        return f"tgi.{self.value}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One entry point."""

    kind: PluginKind
    name: str
    module: str
    """`package.module`, or `package.module:object`."""
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name!r} of {self.distribution} {self.version}"


def installed(kind: PluginKind) -> tuple[Installed, ...]:
    """All entry points of a kind, ordered by name; names may occur twice."""
    found = [
        Installed(
            kind=kind,
            name=point.name,
            module=point.value,
            distribution=point.dist.name if point.dist else "an unnamed distribution",
            version=point.dist.version if point.dist else "unknown",
        )
        for point in entry_points(group=kind.group)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


def find(kind: PluginKind, name: str) -> Installed:
    """The entry point of that name.

    Raises:
        UnknownPlugin: there is none; lists those that there are, and how to get more.
        PluginConflict: two distributions offer it; names both.
    """
    entries = installed(kind)
    matching = [entry for entry in entries if entry.name == name]
    if not matching:
        raise UnknownPlugin(_unknown(kind, name, entries))
    if len(matching) > 1:
        offers = " and ".join(f"{e.distribution} {e.version} ({e.module})" for e in matching)
        raise PluginConflict(
            f"{len(matching)} distributions offer a {kind.value} named {name!r}: {offers}. "
            "Uninstall all but one."
        )
    return matching[0]


def _unknown(kind: PluginKind, name: str, entries: tuple[Installed, ...]) -> str:
    listed = ", ".join(f"{e.name} ({e.distribution} {e.version})" for e in entries) or "none"
    remedy = f"A {kind.value} is a Python package, by custom named tgi-{kind.value}-NAME"
    if kind is PluginKind.BACKEND:
        remedy += '; ours come with pip install "tgi-core[cpu]" or "tgi-core[llamacpp]"'
    return f"no {kind.value} named {name!r} is installed. Installed: {listed}. {remedy}."
