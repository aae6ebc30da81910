"""Characters: lets a parser be written as if all of its text were there, though it comes in parts.

The parser is a generator that waits where there is no next character yet. It may put characters
back, and may have what it reads recorded, to give it up if it turns out to be something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from typing import TypeVar

T = TypeVar("T")

Reading = Generator[None, None, T]
"""A part of a parser: takes characters, returns what it has read."""


class Characters:
    """The characters of one text, given to one parser."""

    def __init__(self) -> None:
        self._parser: Reading[None] | None = None
        self._text = ""
        self._place = 0
        """In that text, of the next character."""
        self._record: list[str] | None = None
        self._ended = False

    def start(self, parser: Reading[None]) -> None:
        """Runs a parser until it waits for its first character."""
        self._parser = parser
        self._run()

    def push(self, text: str) -> None:
        """Goes on with the next part of the text."""
        # the parser waits, so it has read all that came before
        self._text, self._place = text, 0
        self._run()

    def end(self) -> None:
        """There is no more: the parser sees "" from now on, and comes to its end."""
        self._ended = True
        self._run()

    def _run(self) -> None:
        if self._parser is not None:
            try:
                next(self._parser)
            except StopIteration:
                self._parser = None

    def next(self) -> Reading[str]:
        """The next character; "" at the end."""
        while self._place == len(self._text):
            if self._ended:
                return ""
            yield
        char = self._text[self._place]
        self._place += 1
        if self._record is not None:
            self._record.append(char)
        return char

    def run(self, pattern: re.Pattern[str]) -> str:
        """What is there already and matches; "" if the next character does not, or has to come."""
        match = pattern.match(self._text, self._place)
        if match is None:
            return ""
        self._place = match.end()
        if self._record is not None:
            self._record.extend(match[0])
        return match[0]

    def put_back(self, text: str) -> None:
        """Makes what was read last the next to be read."""
        earlier = len(text) - self._place
        if earlier > 0:  # it began in a part that is gone
            self._text, self._place = text[:earlier] + self._text, 0
        else:
            self._place -= len(text)
        if self._record is not None and text:
            del self._record[-len(text) :]

    def record(self, before: str) -> None:
        """From here on what is read is recorded, as if `before` had been read just now."""
        self._record = list(before)

    def recorded(self) -> str:
        """What was read since then; no more is recorded. "" if it was forgotten."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def forget(self) -> None:
        """What was recorded is not needed."""
        self._record = None

    def skip_space(self) -> Reading[str]:
        """Reads white space and returns it."""
        space = []
        while (char := (yield from self.next())).isspace():
            space.append(char)
        self.put_back(char)
        return "".join(space)

    def one_of(self, texts: Collection[str]) -> Reading[str]:
        """Reads white space and one of some texts, and returns that.

        "" if none of them comes; then nothing has been read.
        """
        space = yield from self.skip_space()
        found = ""
        while char := (yield from self.next()):
            found += char
            if found in texts:
                return found
            if not any(text.startswith(found) for text in texts):
                break
        self.put_back(space + found)
        return ""

    def literal(self, text: str) -> Reading[bool]:
        """Reads a text; False if another comes, and then nothing has been read."""
        found = ""
        while char := (yield from self.next()):
            found += char
            if found == text:
                return True
            if not text.startswith(found):
                break
        self.put_back(found)
        return False

    def drop_last_space(self) -> Reading[None]:
        """Reads white space if there is nothing else any more."""
        space = yield from self.skip_space()
        if char := (yield from self.next()):
            self.put_back(space + char)
