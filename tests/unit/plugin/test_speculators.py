from types import ModuleType

import pytest

from tgi_core.builtin import ngram
from tgi_core.engine.speculation import choose_speculator
from tgi_core.errors import PluginConflict, PluginLoadError, UsageError
from tgi_core.plugin import hookimpl
from tgi_core.plugin.manager import Plugins


def module(name, **members):
    made = ModuleType(name)
    vars(made).update(members)
    return made


class TestSpeculators:
    def test_the_built_in_speculator_is_a_plugin_like_others(self):
        class Mine:
            name = "mine"

            def start(self, setup):
                raise NotImplementedError

        mine = module("mine", tgi_speculators=hookimpl(lambda: [Mine()]))
        plugins = Plugins(builtins=[mine, ngram])
        assert set(plugins.speculators()) == {"mine", "ngram"}
        assert isinstance(choose_speculator(plugins, "mine"), Mine)
        with pytest.raises(UsageError, match="'odd'; there are: mine, ngram"):
            choose_speculator(plugins, "odd")

    def test_one_name_of_two_plugins_is_a_conflict_that_names_both(self):
        twin = module("twin", tgi_speculators=hookimpl(ngram.tgi_speculators))
        with pytest.raises(PluginConflict, match=r"'ngram'.*'(twin|ngram)'"):
            Plugins(builtins=[ngram, twin]).speculators()

    @pytest.mark.parametrize("answer", [None, "ngram", [object()], 7])
    def test_a_wrong_answer_names_the_plugin(self, answer):
        builtin = module("odd", tgi_speculators=hookimpl(lambda: answer))
        with pytest.raises(PluginLoadError, match="plugin 'odd'"):
            Plugins(builtins=[builtin]).speculators()
