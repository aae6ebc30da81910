"""TGI's variables for one device reach the backend that serves, and no other."""

import pytest

from tests.backend_variables import specs
from tests.engines import LOAD
from tgi_core.engine.variables import with_variables

SPECS = {spec.name: spec for spec in specs()}
SETTING = [(spec, name) for spec in SPECS.values() for name in spec.variables]
IDLE = [(spec, name) for spec in SPECS.values() for name in spec.idle_variables]


@pytest.mark.parametrize(("spec", "name"), SETTING, ids=lambda x: getattr(x, "name", x))
def test_a_variable_sets_an_option_unless_it_is_given(spec, name):
    option = spec.variables[name]
    load = with_variables(LOAD, spec, {name: "on", "HOME": "/"})
    assert load.options == {option: "on"}
    assert with_variables(load, spec, {name: "off"}) == load
    assert with_variables(LOAD, spec, {name: ""}) == LOAD


@pytest.mark.parametrize(("spec", "name"), IDLE, ids=lambda x: getattr(x, "name", x))
def test_a_variable_without_effect_says_so(spec, name, caplog):
    assert with_variables(LOAD, spec, {name: "1"}) == LOAD
    assert f"{name} has no effect: {spec.idle_variables[name]}." in caplog.text


def test_another_backends_variables_are_nobodys_wish(caplog):
    environment = {name: "1" for _, name in (*SETTING, *IDLE)}
    others = [spec for spec in SPECS.values() if not spec.variables]
    assert others and SETTING
    for spec in others:
        assert with_variables(LOAD, spec, environment).options == {}
