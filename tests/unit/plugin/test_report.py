"""What a report of the conformance kit is worth, and where it is found."""

import sys
from pathlib import Path

import pytest

from tgi_core.errors import PluginLoadError
from tgi_core.plugin.catalog import Installed, PluginKind
from tgi_core.plugin.report import (
    REFERENCES,
    ConformanceReport,
    Level,
    Outcome,
    Promise,
    read_report,
    report_path,
    shipped_report,
)

EXACT = Promise(group="reference", name=REFERENCES[0], outcome=Outcome.KEPT)


def promise(outcome: Outcome, group: str = "cache") -> Promise:
    return Promise(group=group, name="what it says", outcome=outcome)


def report(*promises: Promise, simulator: str = "") -> ConformanceReport:
    return ConformanceReport(
        backend="npu",
        distribution="tgi-backend-npu",
        version="1.2",
        contract=(1, 0),
        core="0.1.0",
        date="2026-11-26",
        device="npu:0",
        simulator=simulator,
        model="tiny",
        runtime=("Python 3.11.2",),
        promises=promises,
    )


def entry(module: str) -> Installed:
    return Installed(
        kind=PluginKind.BACKEND, name="npu", module=module, distribution="d", version="1.2"
    )


@pytest.mark.parametrize(
    ("promises", "level"),
    [
        ([], Level.NONE),
        ([EXACT, promise(Outcome.BROKEN)], Level.NONE),
        ([promise(Outcome.KEPT)], Level.BRONZE),
        ([promise(Outcome.KEPT), promise(Outcome.EXCLUDED)], Level.BRONZE),
        ([EXACT, promise(Outcome.EXCLUDED)], Level.SILVER),
        ([EXACT, promise(Outcome.UNPROVED, "adapters")], Level.SILVER),
        ([EXACT, promise(Outcome.EXCLUDED, "adapters")], Level.GOLD),
        ([EXACT, promise(Outcome.KEPT)], Level.GOLD),
    ],
)
def test_a_level_is_what_was_seen_and_nothing_more(promises, level):
    assert report(*promises).level is level


def test_a_report_survives_its_file_and_says_its_level_to_anybody(tmp_path):
    written = report(EXACT, promise(Outcome.EXCLUDED, "fork"), simulator="a double of the SDK")
    file = tmp_path / "npu.conformance.json"
    file.write_text(written.to_json())
    assert read_report(file) == written
    assert file.read_text().startswith('{\n "level": "silver"')


def test_a_simulator_and_another_version_are_not_passed_over():
    assert report(EXACT).summary("1.2") == "gold"
    assert report(EXACT).summary("1.3") == "gold, of 1.2"
    assert report(EXACT, simulator="a double").summary("1.2") == "gold (simulator)"


def test_a_package_has_its_report_inside_and_a_lone_module_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "report_of_a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('finding a report imports nothing')")
    (folder / "plugin.py").touch()
    (tmp_path / "report_of_a_module.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert report_path(entry("report_of_a_package.plugin")) == folder / "npu.conformance.json"
    beside = tmp_path / "report_of_a_module.conformance.json"
    assert report_path(entry("report_of_a_module")) == beside
    assert not {"report_of_a_package", "report_of_a_module"} & set(sys.modules)
    assert shipped_report(entry("report_of_a_module")) is None
    beside.write_text(report(EXACT).to_json())
    assert shipped_report(entry("report_of_a_module")) == report(EXACT)


@pytest.mark.parametrize("text", ["", "{}", '{"level": "gold"}', "[]", "gold"])
def test_a_damaged_report_is_none(text, tmp_path, monkeypatch):
    (tmp_path / "damaged_report.py").touch()
    (tmp_path / "damaged_report.conformance.json").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shipped_report(entry("damaged_report")) is None


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(PluginLoadError, match="no_such_module"):
        report_path(entry("no_such_module"))
    assert shipped_report(entry("no_such.module")) is None


def test_reports_are_written_where_they_are_read(tmp_path: Path, monkeypatch):
    """Two backends of one package do not share one."""
    (tmp_path / "two_backends").mkdir()
    (tmp_path / "two_backends" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    one, other = entry("two_backends.one"), entry("two_backends.other")
    other = Installed(
        kind=other.kind, name="gpu", module=other.module, distribution="d", version="1"
    )
    assert report_path(one) != report_path(other)
