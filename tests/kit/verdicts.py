"""Runs the kit on faulty plugins, in a pytest inside this one: which promise does each break?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


class Verdicts:
    """A pytest plugin: runs for each fault the test that should catch it, and notes what failed.

    What is to be caught by "" has no fault, and has to pass the whole kit.
    """

    def __init__(self, caught_by: Mapping[str, str]) -> None:
        self._caught_by = caught_by
        self.faults: set[str] = set()
        self.failed: dict[str, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        chosen = []
        for item in items:
            fault = _fault_of(item)
            if fault:
                self.faults.add(fault)
                if self._caught_by.get(fault) in ("", item.originalname):
                    chosen.append(item)
        items[:] = chosen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function) -> object:
        report = yield
        if report.failed:
            self.failed.setdefault(_fault_of(item), set()).add(f"{report.when} of {item.name}")
        return report


def verdicts_on(file: Path, caught_by: Mapping[str, str]) -> Verdicts:
    """The faults of a file are the values of its fixture `spec`."""
    verdicts = Verdicts(caught_by)
    # the inner pytest must not touch this one's cache nor its alarm clock
    options = ["-p", "no:cacheprovider", "-o", "timeout=0", "--tb=line"]
    pytest.main([str(file), *options], plugins=[verdicts])
    return verdicts


def _fault_of(item: pytest.Function) -> str:
    return item.callspec.params.get("spec", "") if hasattr(item, "callspec") else ""
