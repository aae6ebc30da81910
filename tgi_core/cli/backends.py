"""`tgi backends`: what each installed backend finds on this machine, as a table or as JSON.

Imports and probes every backend, device libraries included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tgi_core.plugin.catalog import PluginKind, installed
from tgi_core.plugin.choose import probe
from tgi_core.plugin.manager import Plugins
from tgi_core.plugin.report import shipped_report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    name: str
    version: str
    conformance: str
    """What the report says that its package ships; empty if it ships none."""
    available: bool
    by_name_only: bool = False
    devices: tuple[str, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    description: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi backends`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--disable-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this backend out; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Prints one line for each backend; a backend that cannot be loaded is not available."""
    rows = _rows(frozenset(args.disable_plugin))
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(_table(rows))
    return 0


def _rows(disabled: frozenset[str]) -> list[_Row]:
    entries = installed(PluginKind.BACKEND)
    versions = {entry.name: entry.version for entry in entries}
    reports = {entry.name: shipped_report(entry) for entry in entries}
    levels = {name: one.summary(versions[name]) if one else "" for name, one in reports.items()}
    backends = Plugins(disabled=disabled).load_all_backends()
    rows = [
        _Row(
            name=name,
            version=versions[name],
            conformance=levels[name],
            available=False,
            reason=str(error),
        )
        for name, error in backends.failures.items()
    ]
    for name, spec in backends.specs.items():
        found = probe(spec)
        rows.append(
            _Row(
                name=name,
                version=versions[name],
                conformance=levels[name],
                available=found.available,
                by_name_only=found.by_name_only,
                devices=found.devices,
                reason=found.reason,
                notes=found.notes,
                description=spec.description,
            )
        )
    return sorted(rows, key=lambda row: row.name)


def _table(rows: Sequence[_Row]) -> str:
    cells = [("NAME", "VERSION", "CONFORMANCE", "AVAILABLE", "DEVICES", "NOTES")]
    for row in rows:
        available = "by name" if row.by_name_only else "yes" if row.available else "no"
        devices = ", ".join(row.devices) or "-"
        notes = "; ".join(filter(None, (row.reason, *row.notes))) or "-"
        cells.append((row.name, row.version, row.conformance or "-", available, devices, notes))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
