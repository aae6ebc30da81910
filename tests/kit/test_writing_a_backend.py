"""The example of docs/writing-a-backend.md works, and the page leaves nothing out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tgi_core.contract import Capabilities, LoadRequest, ModelFiles, ModelFormat
from tgi_core.contract.step import SamplesOnDevice, StepBackend
from tgi_core.testing.conformance import BackendConformance
from tgi_core.testing.models import write_fake_model

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-backend.md"
MODULE = "tgi_backend_example"


@pytest.fixture(scope="module", autouse=True)
def installed_example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("site")
    (folder / f"{MODULE}.py").write_text(_code_blocks()[0])
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE)


class TestExample(BackendConformance):
    module = MODULE

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = write_fake_model(tmp_path_factory.mktemp("model"))
        files = ModelFiles(reference="example", path=path, format=ModelFormat.SAFETENSORS)
        return LoadRequest(model=files, max_rows=4, max_sequence_tokens=128)


def test_kit_runs_from_the_file_that_the_page_shows(tmp_path: Path) -> None:
    file = tmp_path / "test_example.py"
    file.write_text(_code_blocks()[1])
    # one test, for TestExample above runs them all
    options = ["-k", "draft_rows", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    assert pytest.main([str(file), *options]) == pytest.ExitCode.OK


def test_page_names_every_method() -> None:
    methods = [name for name in vars(StepBackend) | vars(SamplesOnDevice) if name[0] != "_"]
    missing = [name for name in methods if f"| `{name}(" not in PAGE.read_text()]
    assert not missing


def test_page_names_every_capability() -> None:
    table = PAGE.read_text().partition("## 4. Capabilities")[2].partition("## 5.")[0]
    missing = [field.name for field in fields(Capabilities) if f"`{field.name}`" not in table]
    assert not missing


def _code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
