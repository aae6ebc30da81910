"""The example of docs/writing-a-plugin.md is what `tgi new plugin` writes, whose tests pass."""

from __future__ import annotations

import re
from pathlib import Path

from tgi_core.cli.new import write_package
from tgi_core.contract import ChatServer
from tgi_core.plugin.catalog import PluginKind

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-plugin.md"


def test_page_shows_what_the_command_writes(tmp_path: Path) -> None:
    write_package(PluginKind.PLUGIN, "example", tmp_path)
    module, tests = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert module == (tmp_path / "tgi_plugin_example.py").read_text()
    assert tests == (tmp_path / "tests" / "test_dialect.py").read_text()


def test_page_names_all_that_a_handler_may_ask() -> None:
    methods = [name for name in vars(ChatServer) if name[0] != "_"]
    assert len(methods) == 6
    missing = [name for name in methods if f"| `{name}(" not in PAGE.read_text()]
    assert not missing
