from types import ModuleType

import pytest

from tgi_core.contract import Command
from tgi_core.errors import PluginConflict, PluginContractError, PluginLoadError
from tgi_core.plugin import hookimpl
from tgi_core.plugin.manager import Plugins


def module(name, **members):
    made = ModuleType(name)
    vars(made).update(members)
    return made


class Mine:
    name = "mine"

    def __init__(self, delta):
        self.delta = delta

    def boost(self, tokens, vocab_size):
        raise NotImplementedError


def offering(name):
    def tgi_adjustments(watermark_delta):
        return [Mine(watermark_delta)]

    return module(name, tgi_adjustments=hookimpl(tgi_adjustments))


class TestAdjustments:
    def test_they_get_what_the_operator_set(self):
        found = Plugins(builtins=[offering("one")]).adjustments(0.5, 1.25, 7)
        assert set(found) == {"mine"} and found["mine"].delta == 1.25

    def test_one_name_of_two_plugins_is_a_conflict_that_names_both(self):
        with pytest.raises(PluginConflict, match=r"'mine'.*'two'.*'one'|'mine'.*'one'.*'two'"):
            Plugins(builtins=[offering("one"), offering("two")]).adjustments(0.5, 2.0, 7)

    @pytest.mark.parametrize("answer", [None, "mine", [object()], 7])
    def test_a_wrong_answer_names_the_plugin(self, answer):
        odd = module("odd", tgi_adjustments=hookimpl(lambda: answer))
        with pytest.raises(PluginLoadError, match="plugin 'odd'"):
            Plugins(builtins=[odd]).adjustments(0.5, 2.0, 7)


def command(name, contract=(1, 0)):
    return Command(
        name=name,
        contract=contract,
        summary="a test",
        add_arguments=lambda parser: None,
        run=lambda args, tools: 0,
    )


def commanding(name, *commands):
    return module(name, tgi_commands=hookimpl(lambda: list(commands)))


class TestCommands:
    def test_those_of_all_plugins_are_found(self):
        plugins = Plugins(
            builtins=[commanding("one", command("a")), commanding("two", command("b"))]
        )
        assert set(plugins.commands()) == {"a", "b"}

    def test_one_name_of_two_plugins_is_a_conflict(self):
        twins = [commanding("one", command("a")), commanding("two", command("a"))]
        with pytest.raises(PluginConflict, match="command named 'a'"):
            Plugins(builtins=twins).commands()

    def test_one_for_another_contract_is_refused(self):
        future = commanding("one", command("a", contract=(9, 0)))
        with pytest.raises(PluginContractError):
            Plugins(builtins=[future]).commands()
