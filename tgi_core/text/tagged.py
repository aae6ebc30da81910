"""TaggedReader: arguments that are written as tags with plain texts, told as a JSON object.

The text of a string is told while it comes; other values when they are complete. Knows nothing of
what stands around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tgi_core.contract import TaggedArguments
from tgi_core.text.characters import Characters, Reading

MAX_NAME = 512
_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""Models have read more Python than JSON."""


class TaggedReader:
    """Reads the arguments of one call after the other."""

    def __init__(
        self, form: TaggedArguments, chars: Characters, argue: Callable[[str], None]
    ) -> None:
        """`argue` is told the arguments, part by part."""
        self._form = form
        self._chars = chars
        self._argue = argue
        self._name = re.compile(form.name)
        self._plain = re.compile(f"[^{re.escape(form.end[0])}\n]+")

    def read(self, schema: Mapping[str, Any]) -> Reading[bool]:
        """Reads all arguments of a function with these parameters; False if they were cut."""
        properties = schema.get("properties")
        named = properties if isinstance(properties, dict) else {}
        opening = "{"
        while (yield from self._chars.one_of((self._form.begin,))):
            name = yield from self._read_name()
            if name is None:
                return False
            self._argue(f"{opening}{_text(name)}: ")
            opening = ", "
            if not (yield from self._value(kinds(named.get(name)))):
                return False
        if opening != "{":
            # it is complete only if something follows
            char = yield from self._chars.next()
            self._chars.put_back(char)
            if not char:
                return False
            self._argue("}")
        return True

    def _read_name(self) -> Reading[str | None]:
        match, read = None, ""
        while match is None:
            char = yield from self._chars.next()
            read += char
            if not char or len(read) > MAX_NAME:
                return None
            match = self._name.fullmatch(read)
        return match["name"].strip()

    def _value(self, allowed: frozenset[str]) -> Reading[bool]:
        if allowed == {"string"}:
            self._argue('"')
            complete = yield from self._copy(lambda part: self._argue(_text(part)[1:-1]))
            if complete:
                self._argue('"')
            return complete
        parts: list[str] = []
        complete = yield from self._copy(parts.append)
        text = "".join(parts)
        self._argue(_as_json(text, allowed) if complete else text)
        return complete

    def _copy(self, tell: Callable[[str], None]) -> Reading[bool]:
        """The text up to its end, which is read too; False if that does not come."""
        chars, end, padded = self._chars, self._form.end, self._form.padded
        if padded and (char := (yield from chars.next())) != "\n":
            chars.put_back(char)
        held = ""
        """A line break, if it may be the last."""
        while True:
            if run := chars.run(self._plain):
                tell(held + run)
                held = ""
            if (yield from chars.literal(end)):
                return True
            char = yield from chars.next()
            if not char:
                tell(held)
                return False
            if padded and char == "\n":
                tell(held)
                held = char
            else:
                tell(held + char)
                held = ""


def kinds(schema: object) -> frozenset[str]:
    """The types that a parameter may have; empty if that cannot be told."""
    match schema:
        case {"type": str(kind)}:
            return frozenset({kind})
        case {"type": [*several]} if all(isinstance(kind, str) for kind in several):
            return frozenset(map(str, several))
        case {"anyOf": [*options]} | {"oneOf": [*options]}:
            found = [kinds(option) for option in options]
            return frozenset().union(*found) if all(found) else frozenset()
        case {"enum": [*values]} if values and all(isinstance(value, str) for value in values):
            return frozenset({"string"})
        case _:
            return frozenset()


def _as_json(text: str, allowed: frozenset[str]) -> str:
    """A value from what stands in its tag."""
    plain = text.strip()
    plain = _PYTHON.get(plain, plain)
    if "string" in allowed and not (plain == "null" and "null" in allowed):
        return _text(text)
    try:
        json.loads(plain, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _text(text)
    return plain


def _refuse(name: str) -> None:
    raise ValueError(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
