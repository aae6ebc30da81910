"""Which parsers read a model's answers: those that the operator names, or those that fit it.

A chat template tells most: it has to write past calls and thoughts as the model does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tgi_core.builtin.tool_parsers.generic import GENERIC
from tgi_core.contract import ReasoningParser, Tokenizer, ToolCallParser
from tgi_core.errors import UsageError
from tgi_core.text.chat import ChatTemplate

AUTO, NONE = "auto", "none"


def choose_tool_parser(
    wish: str, parsers: Mapping[str, ToolCallParser], template: ChatTemplate, tokenizer: Tokenizer
) -> ToolCallParser | None:
    """The format of a model's tool calls; None if they are to stay in the text.

    Args:
        wish: the name of one, "auto" or "none".
        parsers: by name; earlier ones go first.
        template: the model's. One that knows no tools has them told in words, which ask for JSON.
        tokenizer: the model's. If the template shows nothing, a token of its own for an opening
            does.

    Raises:
        UsageError: there is none of that name.
    """
    check_wish("--tool-call-parser", wish, parsers)
    if wish != AUTO:
        return parsers.get(wish)
    if not template.knows_tools:
        return GENERIC
    for parser in parsers.values():
        if any(map(template.holds, parser.signs)):
            return parser
    for parser in parsers.values():
        for opening in parser.openings:
            # a word may be one token in any vocabulary; a tag only where it was made for this
            is_tag = opening.startswith(("<", "["))
            # and tags around tags are in the templates of all models that write them
            if (
                is_tag
                and parser.tagged is None
                and len(tokenizer.encode(opening, add_special_tokens=False)) == 1
            ):
                return parser
    return GENERIC


def choose_reasoning_parser(
    wish: str, parsers: Mapping[str, ReasoningParser], template: ChatTemplate
) -> ReasoningParser | None:
    """The marks around a model's thoughts; None if it has none, or they are to stay in the text.

    Args:
        wish: the name of some, "auto" or "none".
        parsers: by name; earlier ones go first.
        template: the model's.

    Raises:
        UsageError: there are none of that name.
    """
    check_wish("--reasoning-parser", wish, parsers)
    if wish != AUTO:
        return parsers.get(wish)
    fitting = (p for p in parsers.values() if any(map(template.holds, p.signs)))
    return next(fitting, None)


def check_wish(flag: str, wish: str, parsers: Collection[str]) -> None:
    """Makes sure that there is what the operator names.

    Raises:
        UsageError: there is nothing of that name.
    """
    if wish not in (AUTO, NONE, *parsers):
        raise UsageError(
            f"{flag} {wish!r} is not known; there are {AUTO}, {NONE}, {', '.join(parsers)}."
        )
