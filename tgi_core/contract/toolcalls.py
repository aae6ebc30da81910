"""ToolCallParser and ReasoningParser: how families of models mark calls and thoughts in their text.

Both are data. The one machine that reads by them is core's (`text/answer.py`), so that no parser
needs code of its own for text that comes in parts, and none can be slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedArguments:
    """Arguments as tags with plain texts, such as `<parameter=NAME>VALUE</parameter>`.

    A text whose parameter may be a string is one; others are JSON, if they are.
    """

    begin: str
    """What an argument begins with."""
    name: str
    """A regular expression for what stands between that and the value; its group `name` is the name
    of the parameter. It matches at the first character at which it can, of 512 at most."""
    end: str
    """What ends a value."""
    padded: bool = False
    """A line break at the beginning and one at the end of a value are no part of it."""

    def __post_init__(self) -> None:
        _check_group(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallParser:
    """A format of tool calls.

    A call is a JSON object that names a function and its arguments, `{"name": ..., "arguments":
    ...}` or a usual variant of it; or, with `head`, the name in front of an object of arguments, or
    with `tagged`, in front of tags.
    """

    name: str
    """What `--tool-call-parser` names."""
    contract: tuple[int, int]
    """The version of the contract that it was written for."""
    signs: tuple[str, ...] = ()
    """Texts of which a chat template for such models holds at least one."""
    openings: tuple[str, ...] = ()
    """Texts after which calls follow. If one is a token of its own, that too is a sign."""
    bare: bool = False
    """An answer may begin with a call, without an opening; then the function has to be one of the
    request's, so that other JSON is let be."""
    listed: bool = False
    """Calls may stand in a JSON array."""
    head: str | None = None
    """A regular expression for what stands between opening and arguments, white space at its ends
    left out; its group `name` is the name of the function. It is matched against 512 characters at
    most. None if the name stands in the object. With `tagged` it includes a delimiter, for it
    matches at the first character at which it can; a group `next` is read again."""
    tagged: TaggedArguments | None = None
    """How arguments are written, if that is not JSON."""
    closings: tuple[str, ...] = ()
    """Texts that may follow a call and are no part of the answer."""
    separators: tuple[str, ...] = ()
    """Texts that may follow a call, and after which the next one comes without an opening."""
    tokens: tuple[str, ...] = ()
    """Special tokens that a head is made of. Those of openings, closings and separators need not be
    named; all others are never looked at."""
    short_ids: bool = False
    """Chat templates take only ids of nine letters and digits."""
    forced_beginning: str = ""
    """What is put behind the prompt if the answer has to be a call: all that stands before the
    JSON. "{name}" in it is the name of the function, which then is not part of the JSON."""
    arguments_key: str = "arguments"
    """The key of the arguments in a call that is forced."""

    def __post_init__(self) -> None:
        if self.head is not None:
            _check_group(self.head)
        elif self.tagged is not None:
            raise ValueError("tagged arguments need a head")


def _check_group(pattern: str) -> None:
    if "name" not in re.compile(pattern).groupindex:
        raise ValueError(f"there is no group `name` in {pattern!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParser:
    """Marks around what a model says to itself before it answers."""

    name: str
    """What `--reasoning-parser` names."""
    contract: tuple[int, int]
    """The version of the contract that it was written for."""
    signs: tuple[str, ...]
    """Texts of which a chat template for such models holds at least one."""
    begin: str
    """Comes first in an answer; or stands at the end of the prompt already."""
    end: str
    again: bool = False
    """Thoughts may come again later."""
    dropped: tuple[str, ...] = ()
    """Texts around the answer that are no part of it, such as the names of its channels."""
    tokens: tuple[str, ...] = ()
    """Special tokens that all these texts are made of, if they are more than one."""
