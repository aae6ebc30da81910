"""docs/hardware.md claims nothing that no test and no report stands behind."""

import inspect
import re

import pytest

from tests.hardware.page import ENGINES, FEATURES, ROOT, backends, reports
from tests.hardware.rows import ROWS, Row, Seen
from tests.rules.test_parity import known_tests
from tgi_core.contract import CONTRACT
from tgi_core.plugin.report import ConformanceReport
from tgi_core.testing.conformance import BackendConformance, EngineConformance

PROMISES = [
    (method.__module__, name.removeprefix("test_"))
    for kit in (BackendConformance, EngineConformance)
    for name, method in inspect.getmembers(kit, inspect.isfunction)
    if name.startswith("test_")
]
SHIPPED = [pytest.param(report, id=name) for name, report in reports().items()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.feature}, {row.backend}")
def test_a_row_names_a_backend_and_a_test_that_are_there(row: Row) -> None:
    assert row.backend in backends()
    path, _, test = row.test.partition("::")
    assert test.startswith("test_") and test in known_tests(path)
    assert row.seen is not Seen.UNTRIED
    assert row.seen is not Seen.DEVICE or not _simulated(row.backend)


def _simulated(backend: str) -> bool:
    """What has no report is seen by tests alone, on whatever they ran."""
    return backend in reports() and bool(reports()[backend].simulator)


@pytest.mark.parametrize("report", SHIPPED)
def test_a_report_is_about_what_is_here(report: ConformanceReport) -> None:
    """Made again with `make reports` when a promise of the kit goes, or a version comes."""
    project = (backends()[report.backend] / "pyproject.toml").read_text()
    assert f'name = "{report.distribution}"' in project
    assert f'version = "{report.version}"' in project
    assert report.contract == CONTRACT
    assert not report.model.startswith("/"), "a path of somebody's machine"
    promises = {one.name for one in report.promises}
    assert promises and promises <= {name for _, name in PROMISES}


def test_reports_name_no_backend_twice() -> None:
    files = list((ROOT / "backends").glob("*/*/*.conformance.json"))
    assert len(files) == len(reports())
    for file in files:
        assert file.name.partition(".")[0] in reports()


@pytest.mark.parametrize(("feature", "pattern"), (FEATURES | ENGINES).items())
def test_a_feature_is_proved_by_promises_that_the_kit_has(feature: str, pattern: str) -> None:
    kit = "tgi_core.testing.conformance."
    promises = [f"{module.removeprefix(kit)}: {name}" for module, name in PROMISES]
    for alternative in pattern.split("|") if "(" not in pattern else [pattern]:
        assert any(re.match(alternative, promise) for promise in promises)
