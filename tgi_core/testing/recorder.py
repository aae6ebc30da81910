"""A pytest plugin that notes what became of each promise of the conformance kit.

Knows the kit by the modules that its tests are defined in, and no backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tgi_core.contract import LoadRequest
from tgi_core.plugin.report import Outcome, Promise
from tgi_core.testing.conformance.device import Device
from tgi_core.testing.conformance.engine.promises import Started

_KIT = "tgi_core.testing.conformance."
_ORDER = (Outcome.BROKEN, Outcome.KEPT, Outcome.UNPROVED, Outcome.EXCLUDED)
"""Of several cases of a promise the first of these tells."""
_LONGEST_WHY = 300


class Recorder:
    """Give it to `pytest.main`; afterwards `promises` and `device` tell."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Promise] = {}
        self.device = ""
        """As the capabilities call it; empty if no backend was loaded."""
        self.model = ""
        """What was loaded."""

    @property
    def promises(self) -> tuple[Promise, ...]:
        """One for each promise that was looked at, by group and name."""
        return tuple(self._found[key] for key in sorted(self._found))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        """Notes which device the kit loaded, or which engine it started."""
        result = yield
        if isinstance(result, Device):
            self.device = result.capabilities.device
            self.model = _name(result.request)
        if isinstance(result, Started):
            self.device = result.info.device
            self.model = _name(result.load)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        """Notes an outcome if the test is the kit's."""
        report: pytest.TestReport = yield
        group = _group(item)
        if group is not None and (report.when == "call" or not report.passed):
            self._note(_promise(group, item, report))
        return report

    def _note(self, promise: Promise) -> None:
        key = (promise.group, promise.name)
        before = self._found.setdefault(key, promise)
        if _ORDER.index(promise.outcome) < _ORDER.index(before.outcome):
            self._found[key] = promise


def _name(request: LoadRequest) -> str:
    """What the user wrote, or the end of a path: a report that is shipped names no machine."""
    reference = request.model.reference
    return Path(reference).name if Path(reference).is_absolute() else reference


def _group(item: pytest.Item) -> str | None:
    """The module of the kit that defines the test; None if it is a test of somebody else's."""
    if not isinstance(item, pytest.Function):
        return None
    module: str = inspect.unwrap(item.function).__module__
    return module.removeprefix(_KIT) if module.startswith(_KIT) else None


def _promise(group: str, item: pytest.Item, report: pytest.TestReport) -> Promise:
    assert isinstance(item, pytest.Function)
    outcome, why = Outcome.KEPT, ""
    if report.skipped:
        _, _, why = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
        why = why.removeprefix("Skipped: ")
        outcome = Outcome.UNPROVED if _is_missing(why) else Outcome.EXCLUDED
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        said = crash.message if crash is not None else str(report.longrepr)
        outcome, why = Outcome.BROKEN, " ".join(said.split())[:_LONGEST_WHY]
    name = getattr(item, "originalname", item.name).removeprefix("test_")
    return Promise(group=group, name=name, outcome=outcome, why=why)


def _is_missing(why: str) -> bool:
    """Whether a test was skipped for want of something that its author can give.

    What capabilities exclude names them, or says what no such model can do.
    """
    return why.startswith("no ") or why.startswith("module is an object")
