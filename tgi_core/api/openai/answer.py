"""An answer as OpenAI's chat objects have it: content, reasoning and tool calls with their ids.

The whole answer is put together from the same parts that are streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from tgi_core.api.choice import Choice
from tgi_core.api.openai.chat_schema import CallText, ToolCall, ToolCallDelta
from tgi_core.api.openai.convert import FINISH_REASONS
from tgi_core.api.service import ServedModel
from tgi_core.contract import Feature, ToolCallParser
from tgi_core.errors import ValidationError
from tgi_core.text.answer import AnswerParser, CallPart, Said
from tgi_core.text.output import Ending
from tgi_core.text.stops import Piece
from tgi_core.text.tools import ForcedCall, WantedTools, forced_call

_NUM_PROMPT_CHARS = 64
"""Of the end of a prompt, where a thought may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """What is looked for in the answers to one request."""

    model: ServedModel
    wanted: WantedTools
    forced: ForcedCall | None
    prompt_end: str

    def reader(self) -> AnswerReader:
        """For one choice."""
        functions = {tool.name: tool.parameters for tool in self.wanted.tools}
        one_call = self.wanted.one_call
        if self.forced is not None:
            tools = self.forced.parser
            parser = AnswerParser(tools=tools, functions=functions, one_call=one_call)
            parser.push(self.forced.beginning)
            return AnswerReader(parser, tools)
        wanted = self.model.tool_parser if self.wanted.tools else None
        reasoning = self.model.reasoning_parser
        if wanted is None and reasoning is None:
            return AnswerReader(None, None)
        parser = AnswerParser(
            reasoning=reasoning,
            tools=wanted,
            functions=functions,
            one_call=one_call,
            prompt_end=self.prompt_end,
        )
        return AnswerReader(parser, wanted)


def answer_format(model: ServedModel, wanted: WantedTools, prompt: str) -> AnswerFormat:
    """For the answers to a prompt.

    Raises:
        ValidationError: a call is to be forced, and the server cannot.
    """
    if wanted.forced and Feature.GRAMMAR not in model.limits.features:
        raise ValidationError(
            "a `tool_choice` that forces a call needs guidance, which this server does not have; "
            'use "auto"'
        )
    return AnswerFormat(
        model=model,
        wanted=wanted,
        forced=forced_call(model.tool_parser, wanted) if wanted.forced else None,
        prompt_end=prompt[-_NUM_PROMPT_CHARS:],
    )


class AnswerReader:
    """Reads the pieces of one choice."""

    def __init__(self, parser: AnswerParser | None, tools: ToolCallParser | None) -> None:
        """Without a parser all that is shown is content."""
        self._parser = parser
        self._short_ids = tools is not None and tools.short_ids

    @property
    def parses(self) -> bool:
        """Whether a piece may add nothing to the answer."""
        return self._parser is not None

    def read(self, piece: Piece, *, last: bool) -> Said:
        """What a piece adds."""
        if self._parser is None:
            return Said(piece.shown)
        marks = piece.special and piece.text in self._parser.marks
        return self._parser.push(piece.text if marks else piece.shown, last=last)

    def finish(self) -> Said:
        """What is left when there is no last piece."""
        return Said() if self._parser is None else self._parser.flush()

    def finish_reason(self, choice: Choice) -> str | None:
        """Why the choice has ended; None if it has not."""
        parser = self._parser
        if parser is None or not parser.num_calls or choice.ending in (None, Ending.LENGTH):
            return FINISH_REASONS[choice.ending]
        # a stop string may have cut a call off
        return FINISH_REASONS[choice.ending] if parser.call_is_open else "tool_calls"

    def call_deltas(self, said: Said) -> list[ToolCallDelta] | None:
        """The calls of a streamed part."""
        return [self._call_delta(part) for part in said.calls] or None

    def _call_delta(self, part: CallPart) -> ToolCallDelta:
        text = CallText(part.name, part.arguments)
        if part.name is None:
            return ToolCallDelta(index=part.index, function=text)
        id_ = uuid4().hex[:9] if self._short_ids else f"call_{uuid4().hex[:24]}"
        return ToolCallDelta(index=part.index, id=id_, type="function", function=text)

    def whole(self, pieces: Sequence[Piece]) -> WholeAnswer:
        """All of an answer that has ended."""
        answer = WholeAnswer()
        for place, piece in enumerate(pieces):
            answer.add(self.read(piece, last=place == len(pieces) - 1), self)
        answer.add(self.finish(), self)
        return answer


@dataclass(slots=True)
class WholeAnswer:
    """What an answer says, put together."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, said: Said, reader: AnswerReader) -> None:
        """Goes on."""
        self.content += said.content
        self.reasoning += said.reasoning
        for delta in reader.call_deltas(said) or ():
            if isinstance(delta.id, str):
                call = CallText(delta.function.name, "")
                self.calls.append(ToolCall(delta.id, "function", call))
            function = self.calls[delta.index].function
            function.arguments = (function.arguments or "") + (delta.function.arguments or "")
