"""The grammars of forced calls, under the guidance engine that enforces them."""

from __future__ import annotations

import numpy as np
import pytest

from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.tool_parsers import tgi_tool_parsers
from tgi_core.errors import GenerationError
from tgi_core.text.answer import AnswerParser
from tgi_core.text.tools import Tool, WantedTools, forced_call

BYTES = [bytes([byte]) for byte in range(256)]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"$ref": "#/$defs/n"}},
    "required": ["city", "n"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer"}},
}
LIST = {"properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
TOOLS = (Tool("weather", None, CITY), Tool("list", None, LIST), Tool("time", None, {}))
PARSERS = {parser.name: parser for parser in tgi_tool_parsers()}


def is_accepted(grammar, text):
    matcher = LLGuidance().compiler(BYTES).compile(grammar).matcher()
    mask = np.zeros(8, np.int32)
    try:
        matcher.accept(list(text.encode()))
        return matcher.fill(mask)
    except GenerationError:
        return False


@pytest.mark.parametrize("name", PARSERS)
def test_calls_of_the_tools_and_nothing_else(name):
    call = forced_call(PARSERS[name], WantedTools(TOOLS, forced=True))

    def accepts(function, arguments):
        key = call.parser.arguments_key
        text = f'{{"name": "{function}", "{key}": {arguments}}}'
        return is_accepted(call.grammar, f"[{text}]" if call.parser.listed else text)

    assert accepts("weather", '{"city": "Bern", "n": 3}')
    assert accepts("list", '{"next": {"next": {}}}')
    assert accepts("time", "{}")
    assert not accepts("weather", '{"city": "Bern", "n": "3"}')
    assert not accepts("weather", '{"city": "Bern"}')
    assert not accepts("list", '{"next": {"last": {}}}')
    assert not accepts("other", "{}")


@pytest.mark.parametrize("name", ["mistral", "deepseek", "kimi_k2", "gpt_oss"])
def test_with_the_name_in_front_only_arguments_are_left(name):
    call = forced_call(PARSERS[name], WantedTools(TOOLS[:1], forced=True))
    assert is_accepted(call.grammar, '{"city": "Bern", "n": 3}')
    assert not is_accepted(call.grammar, '{"city": "Bern", "n": "3"}')


@pytest.mark.parametrize("name", [n for n, parser in PARSERS.items() if parser.forced_beginning])
def test_a_forced_call_is_read_as_one(name):
    wanted = WantedTools(TOOLS[:1], forced=True)
    call = forced_call(PARSERS[name], wanted)
    functions = {tool.name: tool.parameters for tool in wanted.tools}
    parser = AnswerParser(tools=call.parser, functions=functions)
    assert not parser.push(call.beginning).content
    arguments = '{"city": "Bern", "n": 3}'
    in_front = "{name}" in PARSERS[name].forced_beginning
    text = arguments if in_front else f'{{"name": "weather", "arguments": {arguments}}}'
    said = parser.push(f"[{text}]" if call.parser.listed and not in_front else text, last=True)
    written = "".join(part.arguments for part in said.calls)
    assert (written, said.content, parser.num_calls) == (arguments, "", 1)


def test_several_calls_or_one():
    two = '[{"name": "time", "arguments": {}}, {"name": "time", "arguments": {}}]'
    for one_call in (False, True):
        wanted = WantedTools(TOOLS, forced=True, one_call=one_call)
        assert is_accepted(forced_call(PARSERS["phi4"], wanted).grammar, two) is not one_call
