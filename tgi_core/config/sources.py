"""Where settings come from: flags, then the environment, then a config file, then defaults.

The only reader of the environment. Each value keeps its origin, so that people can be told who
decided. What settings there are is in `settings.py`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from tgi_core.config.kinds import PORT, Shape
from tgi_core.config.options import Option
from tgi_core.config.settings import Settings
from tgi_core.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "default"

_SERVICE_LINK = re.compile(r"(tcp|udp)://.*")
"""Kubernetes tells pods of a service NAME by NAME_PORT=tcp://address:port; one may be named tgi."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value, and who decided it."""

    value: Any
    origin: str
    """A flag, an environment variable, a file, DEFAULT, or the words of a rule."""


def environment() -> dict[str, str]:
    """All variables of this process."""
    return dict(os.environ)


def docker_label() -> str | None:
    """What the image is called that this runs in; None outside of images."""
    return os.environ.get("DOCKER_LABEL") or None


def set_variable(name: str, value: str) -> None:
    """Sets a variable for libraries that read the environment themselves."""
    os.environ[name] = value


def read_file(path: Path) -> dict[str, Any]:
    """A config file.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no TOML: {error}.") from error


def choose(
    options: Iterable[Option],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Mapping[str, Any] | None = None,
    file_name: str = "",
) -> dict[str, Chosen]:
    """A value for each option, by its name.

    Args:
        options: all that can be decided.
        flags: texts, lists of texts and booleans, by name of the option.
        environment: see `environment`.
        file: see `read_file`.
        file_name: names the file as an origin.

    Raises:
        UsageError: a value is malformed, or the file holds a key that is no option.
    """
    options = tuple(options)
    told = _by_name(options, file or {}, file_name)
    chosen = {}
    for option in options:
        given = option.name in flags
        if given and option.positional:
            chosen[option.name] = _read(option, flags[option.name], "argument")
        elif given:
            chosen[option.name] = _read(option, flags[option.name], f"--{option.name}")
        elif variable := _variable(option, environment):
            chosen[option.name] = _read(option, environment[variable], variable)
        elif option.name in told:
            chosen[option.name] = _read(option, told[option.name], file_name)
        else:
            chosen[option.name] = Chosen(option.default, DEFAULT)
    return chosen


def build(options: Iterable[Option], chosen: Mapping[str, Chosen]) -> Settings:
    """Typed settings from what was chosen."""
    groups: dict[str, dict[str, Any]] = {}
    for option in options:
        if option.place is not None:
            group, field = option.place
            groups.setdefault(group, {})[field] = chosen[option.name].value
    classes = get_type_hints(Settings)
    return Settings(**{name: classes[name](**fields) for name, fields in groups.items()})


def _by_name(
    options: tuple[Option, ...], file: Mapping[str, Any], file_name: str
) -> dict[str, Any]:
    known = {option.name for option in options}
    told = {key.replace("_", "-"): value for key, value in file.items()}
    for key in told:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "Keys are flags without their dashes."
            raise UsageError(f"{file_name}: there is no setting {key!r}. {hint}")
    return told


def _variable(option: Option, environment: Mapping[str, str]) -> str | None:
    """The variable that decides; one that is empty counts as not set."""
    for name in option.variables:
        value = environment.get(name)
        if value == "" and option.secret:
            raise UsageError(f"{name} is empty: unset it, or give it a value.")
        if value and not (option.kind is PORT and _SERVICE_LINK.fullmatch(value)):
            return name
    return None


def _read(option: Option, raw: Any, origin: str) -> Chosen:
    kind = option.kind
    try:
        match kind.shape, raw:
            case Shape.SWITCH, bool():
                return Chosen(raw, origin)
            case ((Shape.ONE | Shape.SWITCH), str() | int() | float()):
                return Chosen(kind.read(_plain(raw)), origin)
            case Shape.LIST, list():
                return Chosen(tuple(kind.read(_plain(item)) for item in raw), origin)
            case Shape.LIST, str():
                return Chosen(tuple(map(kind.read, _split(raw))), origin)
            case Shape.PAIRS, dict():
                return Chosen({key: _plain(value) for key, value in raw.items()}, origin)
            case Shape.PAIRS, list():
                return Chosen(dict(kind.read(_plain(item)) for item in raw), origin)
            case Shape.PAIRS, str():
                return Chosen(dict(map(kind.read, _split(raw))), origin)
            case _:
                raise ValueError("one plain value" if kind.shape is Shape.ONE else "a list")
    except ValueError as error:
        shown = "" if option.secret else f" {raw!r}"
        where = origin if origin.startswith("-") else f"{origin}: {option.name}"
        raise UsageError(f"{where}{shown} must be {error}.") from error


def _plain(raw: object) -> str:
    match raw:
        case bool():
            return str(raw).lower()
        case str() | int() | float():
            return str(raw)
        case _:
            raise ValueError("made of plain values")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
