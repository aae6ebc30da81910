"""CallReader: reads tool calls, character by character, in the variants that models write.

Knows nothing of what stands around calls, and no schema: arguments are passed on as they are
written, as soon as the function is known.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tgi_core.contract import ToolCallParser
from tgi_core.text.characters import Characters, Reading
from tgi_core.text.tagged import TaggedReader

_MAX_HEAD = 512
"""Longest text between an opening and the arguments: it is matched as a whole."""
_MAX_NAME = 256
_CLOSING = {"{": "}", "[": "]"}
_OUTSIDE_STRINGS = frozenset(" \t\n\r,:+-." + string.digits + string.ascii_letters)
"""What JSON may have there besides brackets, and a little more."""

_PLAIN = re.compile(r'[^"\\]+')
"""In a string, what needs no second look."""
_ARGUMENTS = ("arguments", "parameters")


class NoCall(Exception):
    """What comes is no call, or no call any more."""


class CallReader:
    """Reads the calls of one answer."""

    def __init__(
        self,
        parser: ToolCallParser,
        functions: Mapping[str, Mapping[str, Any]],
        chars: Characters,
        begin: Callable[[str], None],
        argue: Callable[[str], None],
    ) -> None:
        """Reports to two functions.

        Args:
            parser: the format.
            functions: the request's tools: their parameters, by name.
            chars: the text.
            begin: told the name of each function that is called.
            argue: told the arguments of that call, part by part.
        """
        self._parser = parser
        self._functions = functions
        self._chars = chars
        self._tell_begin = begin
        self._tell_arguments = argue
        self._head = None if parser.head is None else re.compile(parser.head)
        self._tags = None
        if parser.tagged is not None:
            self._tags = TaggedReader(parser.tagged, chars, self._argue)
        self._bare = False
        self._begun = False
        """Whether the function of the call that is being read has been told."""
        self._argued = False
        self.open = False
        """Whether a call has been told that has not come to its end."""

    def calls(self, *, bare: bool) -> Reading[None]:
        """Reads calls up to what follows the last one.

        Raises:
            NoCall: there is none, or it is broken. The character that does not fit is unread.
        """
        self._bare = bare
        chars, parser = self._chars, self._parser
        in_list = parser.listed and bool((yield from chars.one_of(("[",))))
        closings = (*parser.closings, *("]" if in_list else ()))
        separators = (*parser.separators, *("," if in_list else ()))
        while True:
            self._begun = self._argued = False
            yield from chars.skip_space()
            yield from self._call(named=self._head is not None and not in_list)
            self.open = False
            chars.record("")
            while found := (yield from chars.one_of((*closings, *separators))):
                if found in separators:
                    break
            if not found:
                chars.forget()
                yield from chars.drop_last_space()
                return

    def _call(self, *, named: bool) -> Reading[None]:
        if self._tags is not None:
            yield from self._tagged_call(self._tags)
            return
        char = yield from self._chars.next()
        if named and self._head is not None:
            head = ""
            while char and char != "{" and len(head) < _MAX_HEAD:
                head += char
                char = yield from self._chars.next()
            match = self._head.fullmatch(head.strip()) if char == "{" else None
            if match is None:
                self._fail(char)
            self._begin(match["name"], char)
            yield from self._copy(char)
            return
        if char != "{":
            self._fail(char)
        yield from self._object(inner=False)
        if not self._begun:
            self._fail("}")
        if not self._argued:
            self._argue("{}")

    def _tagged_call(self, tags: TaggedReader) -> Reading[None]:
        match, head = None, ""
        while match is None:
            char = yield from self._chars.next()
            head += char
            if not char or len(head) > _MAX_HEAD or self._head is None:
                self._fail(char)
            match = self._head.fullmatch(head)
        name = match["name"].strip()
        self._begin(name, head[-1])
        self._chars.put_back(match.groupdict().get("next") or "")
        if not (yield from tags.read(self._functions.get(name, {}))):
            self._fail("")
        if not self._argued:
            self._argue("{}")

    def _object(self, *, inner: bool) -> Reading[None]:
        """The rest of an object that is a call, or that a call contains."""
        early: list[str] = []
        """Arguments that come before the name."""
        first = True
        while True:
            char = yield from self._next_visible()
            if char == "}" and first:
                return
            if char != '"':
                self._fail(char)
            key = yield from self._string()
            char = yield from self._next_visible()
            if char != ":":
                self._fail(char)
            char = yield from self._next_visible()
            if inner and first and key == "_name":
                # TGI's form: the arguments stand beside the name
                yield from self._name(char)
                yield from self._rest_as_arguments()
                return
            if key in ("name", "function") and char == '"' and not self._begun:
                yield from self._name(char)
                if early:
                    self._argue("".join(early))
            elif key == "function" and char == "{" and not inner and not self._begun:
                yield from self._object(inner=True)
            elif key in _ARGUMENTS and not self._argued and not early:
                yield from self._arguments(char, early)
            else:
                yield from self._copy(char, [])
            first = False
            char = yield from self._next_visible()
            if char == "}":
                return
            if char != ",":
                self._fail(char)

    def _name(self, char: str) -> Reading[None]:
        if char != '"':
            self._fail(char)
        name = yield from self._string()
        self._begin(name, '"')

    def _begin(self, name: str, char: str) -> None:
        """Tells a name, unless it cannot be one; `char` is the last that was read."""
        unknown = self._bare and name not in self._functions
        if not name or len(name) > _MAX_NAME or not _is_text(name) or unknown:
            self._fail(char)
        self._begun = self.open = True
        self._tell_begin(name)

    def _argue(self, text: str) -> None:
        self._argued = True
        self._tell_arguments(text)

    def _arguments(self, char: str, early: list[str]) -> Reading[None]:
        """The value of the arguments: told at once, or kept in `early` if the name is unknown."""
        if char in ('"', "n"):
            # a string that holds JSON, or null
            raw: list[str] = []
            yield from self._copy(char, raw)
            text = _unpacked("".join(raw))
            if self._begun:
                self._argue(text)
            else:
                early.append(text)
        else:
            yield from self._copy(char, None if self._begun else early)

    def _rest_as_arguments(self) -> Reading[None]:
        """The rest of an object behind its first value, as an object of its own."""
        char = yield from self._next_visible()
        if char == "}":
            return
        if char != ",":
            self._fail(char)
        self._argue("{")
        yield from self._chars.skip_space()
        yield from self._copy((yield from self._chars.next()), open_brackets=["}"])

    def _copy(
        self,
        char: str,
        into: list[str] | None = None,
        open_brackets: list[str] | None = None,
    ) -> Reading[None]:
        """Reads a JSON value that begins with `char`; without `into` it is told as arguments."""
        tell = self._argue if into is None else into.append
        brackets = [] if open_brackets is None else open_brackets
        if not brackets and char not in ("{", "[", '"'):
            yield from self._copy_word(char, tell)
            return
        while True:
            if char == '"':
                yield from self._copy_string(tell)
            elif char in _CLOSING:
                brackets.append(_CLOSING[char])
                tell(char)
            elif brackets[-1] == char:
                brackets.pop()
                tell(char)
            elif char in _OUTSIDE_STRINGS:
                tell(char)
            else:
                self._fail(char)
            if not brackets:
                return
            char = yield from self._chars.next()

    def _copy_word(self, char: str, tell: Callable[[str], None]) -> Reading[None]:
        """A number, true, false or null."""
        if not (char.isalnum() or char == "-"):
            self._fail(char)
        while char.isalnum() or (char and char in "+-."):
            tell(char)
            char = yield from self._chars.next()
        self._chars.put_back(char)

    def _copy_string(self, tell: Callable[[str], None]) -> Reading[None]:
        """The rest of a string, quotes included."""
        tell('"')
        escaped = False
        while True:
            if not escaped and (run := self._chars.run(_PLAIN)):
                tell(run)
            char = yield from self._chars.next()
            if not char:
                self._fail("")
            tell(char)
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                return

    def _string(self) -> Reading[str]:
        """The value of a string whose opening quote has been read."""
        raw: list[str] = []
        yield from self._copy_string(raw.append)
        value = _loaded("".join(raw))
        if not isinstance(value, str):
            self._fail('"')
        return value

    def _next_visible(self) -> Reading[str]:
        yield from self._chars.skip_space()
        return (yield from self._chars.next())

    def _fail(self, char: str) -> NoReturn:
        self._chars.put_back(char)
        raise NoCall


def _unpacked(raw: str) -> str:
    """Arguments as an object: from null, or from a string that holds one."""
    value = _loaded(raw)
    if value is None and raw == "null":
        return "{}"
    is_object = isinstance(value, str) and value.lstrip().startswith("{") and _is_text(value)
    return str(value) if is_object else raw


def _loaded(raw: str) -> object:
    """A JSON value; None if it is none. Strings may hold line breaks, as models write them."""
    try:
        value: object = json.loads(raw, strict=False)
    except ValueError:
        return None
    return value


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: an escape in JSON may be half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
