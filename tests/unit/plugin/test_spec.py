import inspect

import pytest

from tgi_core.plugin import spec
from tgi_core.plugin.manager import Plugins

HOOKS = {name: hook for name, hook in vars(spec).items() if name.startswith("tgi_")}


def test_there_are_few_hooks():
    assert 4 <= len(HOOKS) <= 15


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_says_where_it_runs_and_shows_an_example(name):
    text = inspect.getdoc(HOOKS[name])
    assert text.splitlines()[0].startswith(
        ("API process.", "Engine process.", "Any process.", "The process of a command.")
    )
    assert "Example:" in text
    assert f"def {name}(" in text


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_has_a_method_in_the_facade(name):
    assert callable(getattr(Plugins, name.removeprefix("tgi_")))
