"""Kinds of values that settings have: how they are written as text and read from it.

Knows no setting by name and no source of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

E = TypeVar("E", bound=Enum)


class Shape(Enum):
    """How many values a setting holds."""

    ONE = auto()
    SWITCH = auto()
    """On or off; as a flag it takes no value."""
    LIST = auto()
    """A repeated flag; commas in the environment."""
    PAIRS = auto()
    """KEY=VALUE, repeated; a table in a file."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value."""

    metavar: str
    """Stands for a value in --help."""
    read: Callable[[str], Any]
    """Raises ValueError, whose words complete "must be"."""
    shape: Shape = Shape.ONE


def whole_number(lowest: int, highest: int | None = None) -> Kind:
    """Integers of a range."""
    upto = "or more" if highest is None else f"to {highest}"

    def read(text: str) -> int:
        # int() takes more than people write: blanks, underscores, digits of other scripts
        plain = text.removeprefix("-").isdecimal() and text.isascii()
        if not plain or int(text) < lowest or (highest is not None and int(text) > highest):
            raise ValueError(f"a whole number, {lowest} {upto}")
        return int(text)

    return Kind("N", read)


def number(lowest: float) -> Kind:
    """Decimal numbers from `lowest` on."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value < float("inf"):
            raise ValueError(f"a number, {lowest:g} or more")
        return value

    return Kind("NUMBER", read)


def _read_size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", text.strip().lower(), re.ASCII)
    if found is None or float(found[1]) <= 0:
        raise ValueError("a size such as 24GiB or 80GB")
    base = 1024 if found[3] or not text.lower().endswith("b") else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))


def fraction() -> Kind:
    """Decimal numbers between 0 and 1, neither included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 < value < 1:
            raise ValueError("a number between 0 and 1")
        return value

    return Kind("NUMBER", read)


def one_of(*names: str) -> Kind:
    """A few words; upper and lower case are the same."""
    by_key = {name.lower(): name for name in names}

    def read(text: str) -> str:
        if text.lower() not in by_key:
            raise ValueError(f"one of {', '.join(names)}")
        return by_key[text.lower()]

    return Kind("{" + ",".join(names) + "}", read)


def member_of(enum: type[E]) -> Kind:
    """The values of an enum."""
    words = one_of(*(member.value for member in enum))
    return Kind(words.metavar, lambda text: enum(words.read(text)))


def list_of(item: Kind) -> Kind:
    """Any number of values of another kind, as a tuple."""
    return Kind(item.metavar, item.read, Shape.LIST)


def _read_switch(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
        case _:
            raise ValueError("true or false")


def _read_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError("of the form KEY=VALUE")
    return key, value


def _read_word(text: str) -> str:
    # whatever else a header could not carry as it is
    if not text.isascii() or not text.isprintable() or not text or " " in text:
        raise ValueError("of visible ASCII characters")
    return text


def _read_route(text: str) -> str:
    if not text.startswith("/") or any(char in text for char in "{}?#"):
        raise ValueError("a path that begins with a slash")
    return text


TEXT = Kind("TEXT", str)
NAME = Kind("NAME", str)
ADAPTERS = Kind("NAME=PATH,...", str)
FILE = Kind("FILE", lambda text: Path(text).expanduser())
FOLDER = Kind("FOLDER", lambda text: Path(text).expanduser())
COUNT = whole_number(1)
SIZE = Kind("SIZE", _read_size)
"""Bytes. Ends in GiB or G for powers of 1024, in GB for powers of 1000."""
PORT = Kind("PORT", whole_number(0, 65535).read)
SECONDS = Kind("SECONDS", number(0).read)
KEY = Kind("KEY", _read_word)
WORD = Kind("WORD", _read_word)
ROUTE = Kind("PATH", _read_route)
SWITCH = Kind("", _read_switch, Shape.SWITCH)
PAIRS = Kind("KEY=VALUE", _read_pair, Shape.PAIRS)
