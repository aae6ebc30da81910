"""The conformance report that a backend's package ships: what the kit found, when, and on what.

`tgi conformance --save` writes one; `tgi backends` and `/info` show it. Reading one imports neither
the backend nor the kit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

import msgspec

from tgi_core.errors import PluginLoadError
from tgi_core.plugin.catalog import Installed

_ENGINES = ("engine.events", "engine.grammar", "engine.sampling")
SCHEDULING = ("batching", "cache", "fork", "sampling", *_ENGINES)
"""Groups of promises that make core fast, or an engine whole: batches, the prefix cache,
drafts; all that requests wish for."""
REFERENCES = (
    "greedy_tokens_equal_the_reference",
    "logits_equal_the_reference",
    "vector_equals_the_reference",
)
"""The promises whose evidence comes from outside of the backend: one for engines, one for models
that generate, one for those that embed."""


class Outcome(Enum):
    """What the kit found out about one promise."""

    KEPT = "kept"
    BROKEN = "broken"
    EXCLUDED = "excluded"
    """The backend declares that it cannot do this, so core never asks for it."""
    UNPROVED = "unproved"
    """The kit was not given what it needs to look."""


class Level(Enum):
    """How much a report shows; each level includes those before it."""

    NONE = "none"
    """A promise is broken."""
    BRONZE = "bronze"
    """Every promise that the capabilities do not exclude is kept."""
    SILVER = "silver"
    """And logits, or vectors, equal those of another implementation of the model."""
    GOLD = "gold"
    """And nothing of scheduling and sampling is excluded, nothing at all left unproved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise of the contract."""

    group: str
    name: str
    outcome: Outcome
    why: str = ""
    """What excludes it, what it lacks, or how it was broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceReport:
    """One run of the kit."""

    backend: str
    distribution: str
    version: str
    """Of the distribution."""
    contract: tuple[int, int]
    core: str
    """Version of tgi-core, which brought the kit."""
    date: str
    """YYYY-MM-DD, in UTC."""
    device: str
    """What the backend says it ran on."""
    simulator: str = ""
    """What stood in for the device; empty if it was there."""
    model: str
    runtime: tuple[str, ...]
    """Python and the libraries that the distribution asks for, each with its version."""
    promises: tuple[Promise, ...]

    @property
    def level(self) -> Level:
        """See `Level`."""
        outcomes = {promise.outcome for promise in self.promises}
        if Outcome.BROKEN in outcomes or not self.promises:
            return Level.NONE
        if not any(one.name in REFERENCES and one.outcome is Outcome.KEPT for one in self.promises):
            return Level.BRONZE
        left_out = Outcome.UNPROVED in outcomes or any(
            one.group in SCHEDULING and one.outcome is Outcome.EXCLUDED for one in self.promises
        )
        return Level.SILVER if left_out else Level.GOLD

    def count(self, outcome: Outcome) -> int:
        """How many promises came out so."""
        return sum(promise.outcome is outcome for promise in self.promises)

    def summary(self, version: str) -> str:
        """A few words for a table.

        Args:
            version: of the installed distribution; told apart if the report is about another one.
        """
        words = self.level.value
        if self.simulator:
            words += " (simulator)"
        return words if self.version == version else f"{words}, of {self.version}"

    def to_json(self) -> str:
        """The report as its file has it, with the level for other readers."""
        written = msgspec.json.encode({"level": self.level.value, **msgspec.to_builtins(self)})
        return msgspec.json.format(written, indent=1).decode() + "\n"


def read_report(path: Path) -> ConformanceReport:
    """Reads a report's file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no report.
    """
    return msgspec.json.decode(path.read_bytes(), type=ConformanceReport)


def report_path(entry: Installed) -> Path:
    """Where a backend's report belongs: beside the module that its entry point names.

    Raises:
        PluginLoadError: the module cannot be found.
    """
    module = entry.module.partition(":")[0]
    parent, _, _ = module.rpartition(".")
    try:
        found = find_spec(parent or module)
    except (ImportError, ValueError):
        found = None
    places: Sequence[str] = (found and found.submodule_search_locations) or ()
    if places:
        return Path(places[0], f"{entry.name}.conformance.json")
    if found is None or found.origin is None:
        raise PluginLoadError(f"the {entry} names the module {module}, which cannot be found.")
    return Path(found.origin).with_suffix(".conformance.json")


def shipped_report(entry: Installed) -> ConformanceReport | None:
    """The report that came with a backend; None if none did, or if it cannot be read."""
    try:
        return read_report(report_path(entry))
    except (OSError, ValueError, PluginLoadError):
        return None
