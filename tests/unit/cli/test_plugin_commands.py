"""Commands of plugins run as core's own do."""

from __future__ import annotations

import pytest

from tgi_core.cli.app import main
from tgi_core.testing.models import write_fake_model

PLUGIN = """
    from tgi_core.contract import Command
    from tgi_core.errors import UsageError

    def add_arguments(parser):
        parser.add_argument("model")

    def run(args, tools):
        if args.model == "bad":
            raise UsageError("no good.")
        print(tools.load_tokenizer(args.model).encode("hi", add_special_tokens=False))
        return 7

    @hookimpl
    def tgi_commands():
        return [Command(name={name!r}, contract=(1, 0), summary="counts",
                        add_arguments=add_arguments, run=run)]
"""


def test_it_runs_with_cores_tools_and_its_exit_status_is_tgis(install, tmp_path, capsys):
    install.plugin("mine", PLUGIN.format(name="count"))
    assert main(["count", str(write_fake_model(tmp_path / "model"))]) == 7
    assert capsys.readouterr().out.startswith("[")


def test_its_errors_are_lines(install, capsys):
    install.plugin("mine", PLUGIN.format(name="count"))
    assert main(["count", "bad"]) == 2
    assert capsys.readouterr().err == "tgi: error: no good.\n"


def test_a_model_that_is_not_there_is_named(install, capsys):
    install.plugin("mine", PLUGIN.format(name="count"))
    assert main(["count", "/no/such/model"]) != 0
    assert "/no/such/model" in capsys.readouterr().err


def test_an_unknown_command_lists_those_of_plugins_too(install, capsys):
    install.plugin("mine", PLUGIN.format(name="count"))
    with pytest.raises(SystemExit) as exit_:
        main(["counts"])
    assert exit_.value.code == 2
    shown = capsys.readouterr().err
    assert "count" in shown and "serve" in shown


def test_cores_commands_cannot_be_taken_over(install, capsys):
    install.plugin("mine", PLUGIN.format(name="serve"))
    assert main(["something"]) != 0
    assert "'serve', which core has already" in capsys.readouterr().err
