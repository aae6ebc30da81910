"""docs/hardware.md claims nothing that no test and no report stands behind."""

import inspect
import re

import pytest

from tests.hardware.page import FEATURES, ROOT, backends, reports
from tests.hardware.rows import ROWS, Row, Seen
from tests.rules.test_parity import known_tests
from tgi_core.contract import CONTRACT
from tgi_core.plugin.report import ConformanceReport
from tgi_core.testing.conformance import BackendConformance

SHIPPED = [pytest.param(report, id=name) for name, report in reports().items()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.feature}, {row.backend}")
def test_a_row_names_a_backend_and_a_test_that_are_there(row: Row) -> None:
    assert row.backend in backends()
    path, _, test = row.test.partition("::")
    assert test.startswith("test_") and test in known_tests(path)
    assert row.seen is not Seen.UNTRIED
    assert row.seen is not Seen.DEVICE or not _simulated(row.backend)


def _simulated(backend: str) -> bool:
    return backend not in reports() or bool(reports()[backend].simulator)


@pytest.mark.parametrize("report", SHIPPED)
def test_a_report_is_about_what_is_here(report: ConformanceReport) -> None:
    """Made again with `make reports` when a promise of the kit goes, or a version comes."""
    project = (backends()[report.backend] / "pyproject.toml").read_text()
    assert f'name = "{report.distribution}"' in project
    assert f'version = "{report.version}"' in project
    assert report.contract == CONTRACT
    promises = {one.name for one in report.promises}
    tests = {name.removeprefix("test_") for name, _ in inspect.getmembers(BackendConformance)}
    assert promises and promises <= tests


def test_reports_name_no_backend_twice() -> None:
    files = list((ROOT / "backends").glob("*/*/*.conformance.json"))
    assert len(files) == len(reports())
    for file in files:
        assert file.name.partition(".")[0] in reports()


@pytest.mark.parametrize(("feature", "pattern"), FEATURES.items())
def test_a_feature_is_proved_by_promises_that_the_kit_has(feature: str, pattern: str) -> None:
    promises = [
        f"{method.__module__.rpartition('.')[2]}: {name.removeprefix('test_')}"
        for name, method in inspect.getmembers(BackendConformance, inspect.isfunction)
        if name.startswith("test_")
    ]
    assert any(re.match(pattern, promise) for promise in promises)
