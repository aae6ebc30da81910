"""Plugins written for contract 1.0 keep working with the core of today (docs/decisions/0042)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.frozen import FROZEN, digest, install
from tgi_core.cli.app import main
from tgi_core.contract import CONTRACT
from tgi_core.plugin.manager import Plugins
from tgi_core.testing.models import write_fake_model

DIGEST = "cc2d250317974f28"
"""Changes while the contract is unfrozen, with a line in CHANGELOG.md; afterwards never."""
PLUGINS = ("tgi_backend_frozen_1_0", "tgi_plugin_frozen_1_0")


def own_tests(package: str, file: str) -> ModuleType:
    """The tests that the stranger wrote, as a module."""
    path = FROZEN / package / "tests" / file
    sys.path.insert(0, str(path.parents[1]))
    try:
        found = importlib.util.spec_from_file_location(f"frozen_{path.stem}", path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parents[1]))
    return module


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    paths = install(tmp_path_factory.mktemp("site"))
    sys.path[:0] = paths
    yield
    for path in paths:
        sys.path.remove(path)
    for name in PLUGINS:
        sys.modules.pop(name, None)


TestBackendsOwnTests = own_tests("backend", "test_conformance.py").TestConformance

_dialect = own_tests("dialect", "test_dialect.py")
test_parts = _dialect.test_the_answer_comes_in_parts
test_counts = _dialect.test_questions_are_counted
test_early_errors = _dialect.test_errors_before_the_first_part_have_a_status
test_late_errors = _dialect.test_errors_after_it_end_the_text


def test_the_copies_are_what_they_were():
    assert digest() == DIGEST, "frozen_1_0 is not to be touched: see docs/decisions/0042"


def test_core_loads_them_and_tells_nobody_to_upgrade():
    plugins = Plugins()
    spec = plugins.load_backend("frozen-1-0")
    assert spec.contract == (1, 0) <= CONTRACT
    plugins.load_plugin("frozen-1-0")
    assert [dialect.name for dialect in plugins.routes()] == ["frozen-1-0"]


def test_commands_reach_what_the_backend_offers(tmp_path: Path, capsys):
    model = write_fake_model(tmp_path / "model")
    assert main(["plan", str(model), "--backend", "frozen-1-0"]) == 0
    assert "integers" in capsys.readouterr().out
    target = tmp_path / "converted"
    assert main(["convert", str(model), str(target), "--backend", "frozen-1-0"]) == 0
    assert (target / "tokenizer.json").is_file()
