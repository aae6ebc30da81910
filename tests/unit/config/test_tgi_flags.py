"""Each flag and variable of TGI, one by one: a setting, a refusal, or nothing with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.settings import silent_variables
from tgi_core.config.launcher import check, exports, launcher_options, settings_of, without_effect
from tgi_core.config.options import upper_snake
from tgi_core.config.settings import OPTIONS
from tgi_core.config.sources import build, choose
from tgi_core.config.tgi_flags import FLAGS, IDLE_VARIABLES
from tgi_core.errors import ArgumentValidation

SETS = {
    "model-id": ("org/m", "org/m"),
    "revision": ("v1", "v1"),
    "num-shard": ("2", 2),
    "quantize": ("int8", "int8"),
    "speculate": ("7", 7),
    "dtype": ("bfloat16", "bfloat16"),
    "kv-cache-dtype": ("u8", "u8"),
    "max-concurrent-requests": ("7", 7),
    "max-best-of": ("7", 7),
    "max-stop-sequences": ("7", 7),
    "max-top-n-tokens": ("7", 7),
    "max-input-tokens": ("7", 7),
    "max-total-tokens": ("7", 7),
    "max-batch-prefill-tokens": ("7", 7),
    "max-batch-total-tokens": ("7", 7),
    "max-batch-size": ("7", 7),
    "hostname": ("::1", "::1"),
    "port": ("7", 7),
    "json-output": ("true", True),
    "otlp-endpoint": ("http://a:1", "http://a:1"),
    "otlp-service-name": ("mine", "mine"),
    "cors-allow-origin": ("https://a,https://b", ("https://a", "https://b")),
    "api-key": ("k", ("k",)),
    "tokenizer-config-path": ("/a/b.json", Path("/a/b.json")),
    "disable-grammar-support": ("true", True),
    "watermark-gamma": ("0.25", 0.25),
    "watermark-delta": ("1.5", 1.5),
    "max-client-batch-size": ("7", 7),
    "lora-adapters": ("a=/b,org/c", "a=/b,org/c"),
    "payload-limit": ("7", 7),
    "graceful-termination-timeout": ("7", 7.0),
}
"""What is said, and the value that it makes."""

IDLE = [flag.name for flag in FLAGS if flag.idle is not None]
REFUSED = [flag.name for flag in FLAGS if flag.refused is not None]
VALUES = {"sharded": "false", "ngrok": "false", "trust-remote-code": "true"}
PLACES = {option.name: option.place for option in OPTIONS}


def settings(environment):
    told = settings_of(choose(launcher_options(), {}, environment), environment, "box")
    return build(OPTIONS, told)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.sets], ids=lambda flag: flag.name)
def test_each_flag_that_is_a_setting_sets_it(flag):
    said, meant = SETS[flag.name]
    group, field = PLACES[flag.sets]

    def found(environment):
        value = getattr(getattr(settings(environment), group), field)
        return getattr(value, "value", value)

    assert found({upper_snake(flag.name): said}) == meant
    assert found({}) != meant


@pytest.mark.parametrize("name", IDLE)
def test_each_flag_without_effect_says_so(name):
    variable = upper_snake(name)
    environment = {variable: VALUES.get(name, "1")}
    [told] = without_effect(choose(launcher_options(), {}, environment), environment)
    assert told.startswith(f"{variable} has no effect: ")
    assert settings(environment) == settings({})


def test_a_variable_of_sagemaker_without_effect_says_so_too():
    environment = {"HF_MODEL_TRUST_REMOTE_CODE": "true"}
    [told] = without_effect(choose(launcher_options(), {}, environment), environment)
    assert told.startswith("HF_MODEL_TRUST_REMOTE_CODE has no effect: ")


@pytest.mark.parametrize("name", REFUSED)
def test_each_flag_that_would_be_missed_is_refused_by_name(name):
    value = "linear" if name == "rope-scaling" else "2"
    with pytest.raises(ArgumentValidation, match=f"^--{name} is not supported: "):
        check(choose(launcher_options(), {name: value}, {}))


@pytest.mark.parametrize("name", IDLE_VARIABLES)
def test_each_variable_without_effect_says_so(name):
    environment = {name: "1"}
    [told] = without_effect(choose(launcher_options(), {}, environment), environment)
    assert told == f"{name} has no effect: {IDLE_VARIABLES[name]}."
    assert settings(environment) == settings({})


@pytest.mark.parametrize("name", silent_variables())
def test_variables_without_meaning_change_nothing(name):
    environment = {name: "1"}
    chosen = choose(launcher_options(), {}, environment)
    assert settings(environment) == settings({})
    assert exports(chosen, environment) == {} and without_effect(chosen, environment) == []
