"""AnswerParser: what a model writes, as content, reasoning and tool calls, while it comes.

Reads each character once and in order, so the outcome does not depend on how the text is divided,
and the time is linear. Holds back only what may turn out to be a mark, with the white space before
it, or a call whose function is not yet known. What is no call after all is content: nothing is
lost, and nothing is an error. Knows no model (`ToolCallParser` and `ReasoningParser` say what to
look for), no tokens and no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tgi_core.contract import ReasoningParser, ToolCallParser
from tgi_core.text.calls import CallReader, NoCall
from tgi_core.text.characters import Characters, Reading
from tgi_core.text.stops import StopMatcher

_MAX_SPACE = 64
"""White space that is held back, as it is left out if a mark follows."""


@dataclass(slots=True)
class CallPart:
    """What is new of a tool call."""

    index: int
    """Which call; they come one after the other."""
    name: str | None = None
    """With the first part only."""
    arguments: str = ""
    """The next characters of a JSON object, as the model wrote it."""


@dataclass(slots=True)
class Said:
    """What is new in an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallPart] = field(default_factory=list)
    """At most one part of each call."""

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)


class AnswerParser:
    """Parses one answer."""

    def __init__(
        self,
        *,
        reasoning: ReasoningParser | None = None,
        tools: ToolCallParser | None = None,
        functions: Mapping[str, Mapping[str, Any]] | None = None,
        one_call: bool = False,
        prompt_end: str = "",
    ) -> None:
        """At the beginning of an answer.

        Args:
            reasoning: how thoughts are marked; None if they are not looked for.
            tools: how calls are written; None if they are not looked for.
            functions: the request's tools: their parameters, by name.
            one_call: calls after the first are left out.
            prompt_end: the last characters of the prompt, which may have begun a thought.
        """
        self._reasoning = reasoning
        self._tools = tools
        self._one_call = one_call
        self._inside = reasoning is not None and prompt_end.rstrip().endswith(reasoning.begin)
        """Whether what is read is a thought."""
        self._content: list[str] = []
        self._thought: list[str] = []
        self._calls: list[tuple[int, str | None, list[str]]] = []
        self._num_calls = 0
        self.marks = _marks(tools, reasoning)
        """Texts that are looked for even if they are special tokens."""
        self._chars = Characters()
        self._reader = None
        if tools is not None:
            self._reader = CallReader(tools, functions or {}, self._chars, self._begin, self._argue)
        self._chars.start(self._answer())

    @property
    def num_calls(self) -> int:
        """Tool calls so far."""
        return min(self._num_calls, 1) if self._one_call else self._num_calls

    @property
    def call_is_open(self) -> bool:
        """Whether the last call is not complete; at the end of the answer it never will be."""
        return self._reader is not None and self._reader.open

    def push(self, text: str, *, last: bool = False) -> Said:
        """Goes on with the next part of the text, or with the last one.

        Special tokens have no text, but for those that are `marks`.
        """
        self._chars.push(text)
        if last:
            self._chars.end()
        return self._said()

    def flush(self) -> Said:
        """What was held back, when no more text comes."""
        self._chars.end()
        return self._said()

    def _said(self) -> Said:
        if not (self._content or self._thought or self._calls):
            return Said()
        said = Said(
            "".join(self._content),
            "".join(self._thought),
            [CallPart(index, name, "".join(parts)) for index, name, parts in self._calls],
        )
        self._content, self._thought, self._calls = [], [], []
        return said

    def _answer(self) -> Reading[None]:
        """The whole answer."""
        if self._reasoning is not None:
            begin = (self._reasoning.begin,)
            self._inside = bool((yield from self._chars.one_of(begin))) or self._inside
        if self._inside:
            yield from self._chars.skip_space()
        if not self._inside:
            yield from self._bare_calls()
        while True:
            mark, space = yield from self._text()
            if not mark:
                return
            thoughts = self._reasoning
            if thoughts is not None and mark in (thoughts.begin, thoughts.end, *thoughts.dropped):
                self._inside = mark == thoughts.begin or (self._inside and mark != thoughts.end)
                yield from self._chars.skip_space()
                if not self._inside:
                    yield from self._bare_calls()
            else:
                yield from self._marked_calls(space + mark)

    def _text(self) -> Reading[tuple[str, str]]:
        """Text up to a mark: the mark, and the white space before it; "" at the end of all."""
        marks = list(self._tools.openings) if self._tools is not None else []
        thoughts = self._reasoning
        if thoughts is not None:
            marks += thoughts.dropped
            if self._inside:
                marks.append(thoughts.end)
            elif thoughts.again:
                marks.append(thoughts.begin)
        if not marks:
            while char := (yield from self._chars.next()):
                self._say(char)
            return "", ""
        matcher = StopMatcher(marks)
        plain = re.compile(f"[^{re.escape(''.join({mark[0] for mark in marks}))}]+")
        held = ""
        while True:
            if not held and (run := self._chars.run(plain)):
                held = run[len(run.rstrip()) :][-_MAX_SPACE:]
                self._say(run[: len(run) - len(held)])
            char = yield from self._chars.next()
            if not char:
                break
            match = matcher.push(char)
            held += char
            if match is not None:
                before = held[: -len(match.text)]
                kept = before.rstrip()
                self._say(kept)
                return match.text, before[len(kept) :]
            may_be_mark = matcher.num_matched
            safe = len(held) - may_be_mark
            num_space = safe - len(held[:safe].rstrip()) if held[safe - 1 : safe].isspace() else 0
            release = safe - min(num_space, _MAX_SPACE)
            if release:
                self._say(held[:release])
                held = held[release:]
        self._say(held)
        return "", ""

    def _bare_calls(self) -> Reading[None]:
        if self._tools is not None and self._tools.bare:
            yield from self._marked_calls("")

    def _marked_calls(self, opening: str) -> Reading[None]:
        """Calls after an opening; "" is none."""
        assert self._reader is not None  # there are openings
        self._chars.record(opening)
        try:
            yield from self._reader.calls(bare=not opening)
        except NoCall:
            self._say(self._chars.recorded())

    def _say(self, text: str) -> None:
        if text:
            (self._thought if self._inside else self._content).append(text)

    def _begin(self, name: str) -> None:
        """A call is certain: what was recorded of it is no content."""
        self._chars.forget()
        self._num_calls += 1
        if not self._surplus:
            self._calls.append((self._num_calls - 1, name, []))

    def _argue(self, text: str) -> None:
        if self._surplus:
            return
        index = self._num_calls - 1
        if not self._calls or self._calls[-1][0] != index:
            self._calls.append((index, None, []))
        self._calls[-1][2].append(text)

    @property
    def _surplus(self) -> bool:
        return self._one_call and self._num_calls > 1


def _marks(tools: ToolCallParser | None, reasoning: ReasoningParser | None) -> frozenset[str]:
    marks: set[str] = set()
    if tools is not None:
        marks.update(tools.openings, tools.closings, tools.separators, tools.tokens)
    if reasoning is not None:
        marks.update((reasoning.begin, reasoning.end), reasoning.dropped, reasoning.tokens)
    return frozenset(marks)
