"""The chat template tells how a model writes calls and thoughts, unless the operator does."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import AddedToken

from tests.unit.text.conftest import make_byte_level
from tgi_core.builtin.reasoning_parsers import tgi_reasoning_parsers
from tgi_core.builtin.tool_parsers import tgi_tool_parsers
from tgi_core.errors import UsageError
from tgi_core.text.chat import ChatTemplate
from tgi_core.text.formats import choose_reasoning_parser, choose_tool_parser
from tgi_core.text.tokenizer import HFTokenizer

TOOLS = {parser.name: parser for parser in tgi_tool_parsers()}
THOUGHTS = {parser.name: parser for parser in tgi_reasoning_parsers()}
KNOWS = "{% if tools %}{{ tools | tojson }}{% endif %}"


def tool_parser(source, byte_level, wish="auto"):
    template = ChatTemplate(source, bos_token=None, eos_token=None)
    found = choose_tool_parser(wish, TOOLS, template, byte_level)
    return found and found.name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (KNOWS + "within <tool_call></tool_call> XML tags", "hermes"),
        (KNOWS + "<tool_call>\n<function=example_function_name>", "qwen3_coder"),
        (KNOWS + "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", "glm4"),
        (KNOWS + "<minimax:tool_call>", "minimax"),
        (KNOWS + "<|tool_calls_section_begin|>", "kimi_k2"),
        (KNOWS + "<|channel|>commentary to=functions.", "gpt_oss"),
        (KNOWS + "{{ '<|python_tag|>' }}", "llama3"),
        (KNOWS + '{"name": function name, "parameters": dictionary of argument name and', "llama3"),
        (KNOWS + "{{ '[TOOL_CALLS] [' }}", "mistral"),
        (KNOWS + "<\uff5ctool▁calls▁begin\uff5c><\uff5ctool▁call▁begin\uff5c>", "deepseek"),
        (KNOWS + "<|tool_call|>", "phi4"),
        (KNOWS, "json"),
        # without a place for tools they are told in words, and the words ask for JSON
        ("<tool_call>", "json"),
        (None, "json"),
    ],
)
def test_the_template_tells_the_format(byte_level, source, name):
    assert tool_parser(source, byte_level) == name


def test_a_token_of_its_own_tells_the_format_if_the_template_does_not():
    raw: tokenizers.Tokenizer = make_byte_level()
    raw.add_special_tokens([AddedToken("[TOOL_CALLS]")])
    assert tool_parser(KNOWS, HFTokenizer(raw)) == "mistral"


def test_a_token_that_formats_share_means_the_one_of_json(byte_level):
    raw: tokenizers.Tokenizer = make_byte_level()
    raw.add_special_tokens([AddedToken("<tool_call>")])
    assert tool_parser(KNOWS, HFTokenizer(raw)) == "hermes"


def test_the_operator_may_name_one_or_none(byte_level):
    assert tool_parser(KNOWS + "<tool_call>", byte_level, "llama3") == "llama3"
    assert tool_parser(KNOWS + "<tool_call>", byte_level, "none") is None
    with pytest.raises(
        UsageError, match=r"--tool-call-parser 'x' is not known; .*auto, none, .*hermes"
    ):
        tool_parser(KNOWS, byte_level, "x")


@pytest.mark.parametrize(
    ("source", "wish", "name"),
    [
        ("{% set content = content.split('</think>')[-1] %}", "auto", "think"),
        ("[THINK]", "auto", "magistral"),
        ("<|channel|>analysis<|message|>", "auto", "gpt_oss"),
        ("plain", "auto", None),
        (None, "auto", None),
        ("<think>", "none", None),
        ("plain", "think", "think"),
    ],
)
def test_marks_of_thoughts(source, wish, name):
    template = ChatTemplate(source, bos_token=None, eos_token=None)
    found = choose_reasoning_parser(wish, THOUGHTS, template)
    assert (found and found.name) == name
    with pytest.raises(UsageError, match="--reasoning-parser 'x' is not known"):
        choose_reasoning_parser("x", THOUGHTS, template)
