"""From TGI's flags and variables to the settings of this server, by TGI's rules.

What each flag is stands in `tgi_flags.py`. What this server can be told besides keeps its own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tgi_core.config.adapters import wanted_adapters
from tgi_core.config.kinds import TEXT
from tgi_core.config.options import PREFIX, Option, upper_snake
from tgi_core.config.settings import OPTIONS
from tgi_core.config.sources import DEFAULT, Chosen
from tgi_core.config.tgi_flags import (
    ALSO,
    FLAGS,
    IDLE_VARIABLES,
    SHORT,
    TgiFlag,
)
from tgi_core.errors import ArgumentValidation, NotEnoughCUDADevices, UsageError

_SERVE = {option.name: option for option in OPTIONS}
_PLACE = ("text-generation-launcher", "")
_SAGEMAKER_PORT = 8080
_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}
_OURS = re.compile(r"text_generation(_router|_launcher)?|tgi_core")
_AS_TGI = {"compat": "tgi"}
"""Options whose default follows TGI if the server is started by TGI's command."""


def launcher_options() -> tuple[Option, ...]:
    """TGI's flags first; then what `tgi serve` has besides."""
    taken = {flag.sets for flag in FLAGS}
    rest = (option for option in OPTIONS if option.name not in taken)
    return (*map(_option, FLAGS), *(_with_tgis_default(option) for option in rest))


def settings_of(
    chosen: Mapping[str, Chosen], environment: Mapping[str, str], host_name: str
) -> dict[str, Chosen]:
    """What `tgi serve` should be told.

    Args:
        chosen: a value for each of `launcher_options`.
        environment: all variables.
        host_name: this machine's.

    Raises:
        ArgumentValidation: TGI would refuse it, or it cannot be done here and would be missed.
    """
    check(chosen)
    told = {option.name: chosen[option.name] for option in OPTIONS if option.name in chosen}
    for flag in FLAGS:
        if flag.sets is not None:
            told[flag.sets] = chosen[flag.name]
    if chosen["max-input-length"].value is not None:
        told["max-input-tokens"] = chosen["max-input-length"]
    # containers get the variable from the engine that runs them; it is nobody's wish
    if told["host"].origin == "HOSTNAME" and told["host"].value == host_name:
        told["host"] = Chosen("0.0.0.0", DEFAULT)
    if told["port"].origin == DEFAULT and chosen["model-id"].origin == "HF_MODEL_ID":
        told["port"] = Chosen(_SAGEMAKER_PORT, "SageMaker's, since HF_MODEL_ID names the model")
    log_filter = environment.get("LOG_LEVEL")
    if log_filter and told["log-level"].origin == DEFAULT:
        told["log-level"] = Chosen(level_of(log_filter), "LOG_LEVEL")
    return told


def exports(chosen: Mapping[str, Chosen], environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to set for the libraries that read them."""
    variables = {
        flag.exports: str(chosen[flag.name].value)
        for flag in FLAGS
        if flag.exports is not None and chosen[flag.name].value is not None
    }
    if "HF_API_TOKEN" in environment and not environment.get("HF_TOKEN"):
        variables["HF_TOKEN"] = environment["HF_API_TOKEN"]
    return variables


def without_effect(chosen: Mapping[str, Chosen], environment: Mapping[str, str]) -> list[str]:
    """A sentence for each thing that was said and means nothing here."""
    found = [
        f"{chosen[flag.name].origin} has no effect: {flag.idle}."
        for flag in FLAGS
        if flag.idle is not None and chosen[flag.name].origin != DEFAULT
    ]
    return found + [
        f"{name} has no effect: {why}."
        for name, why in IDLE_VARIABLES.items()
        if name in environment
    ]


def check(chosen: Mapping[str, Chosen]) -> None:
    """TGI's checks of its arguments, in its order and words; then our own.

    Raises:
        ArgumentValidation: one of them fails.
    """
    value: dict[str, Any] = {name: item.value for name, item in chosen.items()}
    longest, older = value["max-input-tokens"], value["max-input-length"]
    if longest is not None and older is not None:
        raise ArgumentValidation(
            f"Both `max_input_tokens` ({longest}) and `max_input_length` ({older}) are set. Please "
            "define only `max_input_tokens` as `max_input_length is deprecated for naming "
            "consistency."
        )
    longest = older if longest is None else longest
    total = value["max-total-tokens"]
    if longest is not None and total is not None and longest >= total:
        raise ArgumentValidation(
            f"`max_input_tokens`({longest}) must be < `max_total_tokens`({total})"
        )
    _check_shards(value["sharded"], value["num-shard"], value["quantize"])
    if value["validation-workers"] == 0:
        raise ArgumentValidation("`validation_workers` must be > 0")
    if value["ngrok"]:
        for name in ("ngrok-authtoken", "ngrok-edge"):
            if value[name] is None:
                raise ArgumentValidation(f"`{name}` must be set when using ngrok tunneling")
    batch = value["max-batch-total-tokens"]
    if batch is not None and total is not None and total > batch:
        raise ArgumentValidation(
            f"`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {batch}"
        )
    try:
        wanted_adapters(value["lora-adapters"] or "")
    except UsageError as error:
        raise ArgumentValidation(str(error)) from error
    for flag in FLAGS:
        if flag.refused is not None and value[flag.name] is not None:
            raise ArgumentValidation(f"{chosen[flag.name].origin} is not supported: {flag.refused}")


def level_of(log_filter: str) -> str:
    """The level that a filter of TGI asks for, such as `debug` or `text_generation_router=warn`."""
    level = "INFO"
    for part in log_filter.lower().split(","):
        target, equals, name = part.strip().rpartition("=")
        if name in _LEVELS and (not equals or _OURS.match(target)):
            level = _LEVELS[name]
    return level


def _check_shards(sharded: bool | None, num_shard: int | None, quantize: str | None) -> None:
    if sharded and num_shard is None:
        raise NotEnoughCUDADevices("`sharded` is true but only found 0 CUDA devices")
    if sharded and num_shard is not None and num_shard <= 1:
        raise ArgumentValidation("`sharded` is true but `num_shard` <= 1")
    if num_shard is not None and num_shard < 1:
        raise ArgumentValidation("`num_shard` cannot be < 1")
    if num_shard is not None and num_shard > 1 and quantize == "exl2":
        raise ArgumentValidation("Sharding is currently not supported with `exl2` quantization")


def _option(flag: TgiFlag) -> Option:
    """The flag, with what it does not say itself from the option that it sets."""
    own = _SERVE[flag.sets] if flag.sets is not None else None
    named = (*(own.variables if own else ()), *flag.first, upper_snake(flag.name), *flag.also)
    variables = tuple(name for name in named if name != PREFIX + upper_snake(flag.name))
    if own is None:
        words = f"no effect: {flag.idle}" if flag.idle else f"refused: {flag.refused}"
        return Option(
            name=flag.name,
            kind=flag.kind,
            default=flag.default,
            help=flag.help or words,
            short=SHORT.get(flag.name),
            also=variables,
            place=_PLACE,
        )
    return replace(
        own,
        name=flag.name,
        kind=own.kind if flag.kind is TEXT else flag.kind,
        default=own.default if flag.default is None else flag.default,
        short=SHORT.get(flag.name),
        positional=False,
        place=_PLACE,
        also=variables,
    )


def _with_tgis_default(option: Option) -> Option:
    default = option.default
    if option.name in _AS_TGI:
        default = option.kind.read(_AS_TGI[option.name])
    return replace(option, default=default, also=(*option.also, *ALSO.get(option.name, ())))
