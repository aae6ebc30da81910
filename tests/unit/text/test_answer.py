"""Answers are read the same however they are divided, and nothing of them is lost.

More than 400 lines, for all formats are held to the same promises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgi_core.builtin.reasoning_parsers.gpt_oss import GPT_OSS
from tgi_core.builtin.reasoning_parsers.magistral import MAGISTRAL
from tgi_core.builtin.reasoning_parsers.think import THINK
from tgi_core.builtin.tool_parsers import tgi_tool_parsers
from tgi_core.builtin.tool_parsers.deepseek import DEEPSEEK
from tgi_core.builtin.tool_parsers.generic import GENERIC
from tgi_core.builtin.tool_parsers.hermes import HERMES
from tgi_core.builtin.tool_parsers.llama3 import LLAMA3
from tgi_core.builtin.tool_parsers.mistral import MISTRAL
from tgi_core.builtin.tool_parsers.phi4 import PHI4
from tgi_core.text.answer import AnswerParser

FUNCTIONS = {name: {} for name in ("get_weather", "f", "g")}
TYPED = {"f": {"properties": {"text": {"type": "string"}, "n": {"type": "integer"}}}}
"""Text in tags comes while it is written if it is known to be a string."""
PARSERS = {parser.name: parser for parser in tgi_tool_parsers()}

NASTY = {
    "city": 'Zü"rich\\',
    "text": "}{]<tool_call></tool_call>\n;[TOOL_CALLS]",
    "深": [{}, [1.5e3]],
}
"""Arguments with all that a careless parser stumbles over."""


@dataclass
class Read:
    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """Of arguments, as they came."""
    complete: bool = True


def read(parts, tools=None, reasoning=None, functions=FUNCTIONS, **more):
    parser = AnswerParser(tools=tools, reasoning=reasoning, functions=functions, **more)
    found = Read()
    for said in [*map(parser.push, parts), parser.flush()]:
        found.content += said.content
        found.reasoning += said.reasoning
        assert len({part.index for part in said.calls}) == len(said.calls)
        for part in said.calls:
            if part.name is not None:
                assert part.index == len(found.calls)
                found.calls.append([part.name, ""])
            assert part.index == len(found.calls) - 1
            found.calls[-1][1] += part.arguments
            found.parts.append(part.arguments)
    assert parser.num_calls == len(found.calls)
    found.complete = not parser.call_is_open
    return found


def whole(text, tools=None, reasoning=None, **more):
    """Read at once and character by character, which must agree."""
    found = read([text], tools, reasoning, **more)
    singly = read(text, tools, reasoning, **more)
    assert (found.content, found.reasoning) == (singly.content, singly.reasoning)
    assert (found.calls, found.complete) == (singly.calls, singly.complete)
    return found


def tagged(tag, args):
    """Arguments in tags: strings as they are, all else as JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in args.items()
    }
    return "".join(tag.format(name, text) for name, text in texts.items())


def written(name, *calls):
    """Calls as a model of a family writes them."""
    dumped = [(function, json.dumps(args, ensure_ascii=False)) for function, args in calls]
    objects = [f'{{"name": "{function}", "arguments": {args}}}' for function, args in dumped]
    match name:
        case "hermes":
            return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in objects)
        case "llama3":
            return "; ".join(text.replace('"arguments"', '"parameters"', 1) for text in objects)
        case "mistral":
            return f"[TOOL_CALLS] [{', '.join(objects)}]"
        case "phi4":
            return f"functools[{', '.join(objects)}]"
        case "json":
            return f"```json\n[{', '.join(objects)}]\n```"
        case "deepseek":
            begin, end, sep = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"  # noqa: RUF001
            body = "\n".join(
                f"{begin}function{sep}{function}\n```json\n{args}\n```{end}"
                for function, args in dumped
            )
            return f"<｜tool▁calls▁begin｜>{body}<｜tool▁calls▁end｜>"  # noqa: RUF001
        case "qwen3_coder":
            tag = "<parameter={}>\n{}\n</parameter>\n"
            return "\n".join(
                f"<tool_call>\n<function={f}>\n{tagged(tag, args)}</function>\n</tool_call>"
                for f, args in calls
            )
        case "glm4":
            tag = "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n"
            return "".join(f"<tool_call>{f}\n{tagged(tag, a)}</tool_call>" for f, a in calls)
        case "minimax":
            tag = '<parameter name="{}">{}</parameter>\n'
            body = "\n".join(
                f'<invoke name="{f}">\n{tagged(tag, args)}</invoke>' for f, args in calls
            )
            return f"<minimax:tool_call>\n{body}\n</minimax:tool_call>"
        case "kimi_k2":
            body = "".join(
                f"<|tool_call_begin|>functions.{f}:{i}<|tool_call_argument_begin|>{args}"
                "<|tool_call_end|>"
                for i, (f, args) in enumerate(dumped)
            )
            return f"<|tool_calls_section_begin|>{body}<|tool_calls_section_end|>"
        case "gpt_oss":
            return " ".join(
                f"to=functions.{f} <|constrain|>json<|message|>{args}<|call|>" for f, args in dumped
            )
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("arguments", [{}, {"a": 1}, NASTY], ids=["none", "one", "nasty"])
def test_each_format_one_call(name, arguments):
    found = whole(written(name, ("get_weather", arguments)), PARSERS[name])
    [[function, text]] = found.calls
    assert (function, json.loads(text)) == ("get_weather", arguments)
    assert (found.content, found.complete) == ("", True)


@pytest.mark.parametrize("name", PARSERS)
def test_each_format_parallel_calls(name):
    text = written(name, ("f", NASTY), ("g", {}), ("f", {"a": None}))
    found = whole(text, PARSERS[name])
    assert [function for function, _ in found.calls] == ["f", "g", "f"]
    assert [json.loads(args) for _, args in found.calls] == [NASTY, {}, {"a": None}]
    assert found.content == ""
    first = whole(text, PARSERS[name], one_call=True)
    assert first.calls == found.calls[:1] and first.content == ""


@pytest.mark.parametrize(
    "name", ["hermes", "mistral", "phi4", "deepseek", "qwen3_coder", "glm4", "minimax", "kimi_k2"]
)
def test_text_before_calls_is_content_and_calls_may_follow_a_thought(name):
    text = "<think>\nwhich?\n</think>\n\nLet me look.\n" + written(name, ("f", NASTY))
    found = whole(text, PARSERS[name], THINK)
    assert (found.reasoning, found.content) == ("which?", "Let me look.")
    assert json.loads(found.calls[0][1]) == NASTY


@pytest.mark.parametrize("name", PARSERS)
def test_arguments_come_while_they_are_written(name):
    text = written(name, ("f", {"text": "abcdefgh"}))
    found = read(text, PARSERS[name], functions=TYPED)
    assert len([part for part in found.parts if part]) > 8


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_cut_in_the_middle_of_arguments_has_an_open_call(name):
    text = written(name, ("f", {"text": "abc"}))
    found = whole(text[: text.index("bc")], PARSERS[name], functions=TYPED)
    assert found.calls == [["f", '{"text": "a']]
    assert (found.complete, found.content) == (False, "")


MISTRAL_11 = '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}'
DEEPSEEK_31 = "<\uff5ctool▁calls▁begin\uff5c><\uff5ctool▁call▁begin\uff5c>f<\uff5ctool▁sep\uff5c>{}"
VARIANTS = [
    (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [["f", '{"a": 1}']]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', [["f", "{}"]]),
    (HERMES, '<tool_call>{"name": "f", "arguments": null}', [["f", "{}"]]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', [["f", '{"a": 1}']]),
    (HERMES, '<tool_call>{"arguments": "{}", "id": 7, "name": "f"}', [["f", "{}"]]),
    (HERMES, '<tool_call>{"name": "anything", "arguments": {}}', [["anything", "{}"]]),
    (HERMES, '<tool_call>{"name": "\\u0066", "arguments": {}}', [["f", "{}"]]),
    (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [["f", '{"a": 1}']]),
    (LLAMA3, ' \n{"type": "function", "name": "f", "parameters": {}}', [["f", "{}"]]),
    (MISTRAL, MISTRAL_11, [["f", '{"a": 1}'], ["g", "{}"]]),
    (MISTRAL, "[TOOL_CALLS]f{}", [["f", "{}"]]),
    (DEEPSEEK, DEEPSEEK_31, [["f", "{}"]]),
    (PHI4, '<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>', [["f", "{}"]]),
    (GENERIC, '{"function": {"_name": "f", "a": {"b": "}"}}}', [["f", '{"a": {"b": "}"}}']]),
    (GENERIC, '{"function": {"_name": "f"}}', [["f", "{}"]]),
    (GENERIC, '{"function": {"name": "f", "arguments": {"a": 1}}}', [["f", '{"a": 1}']]),
    (GENERIC, '{"function": "f", "parameters": {"a": 1}}', [["f", '{"a": 1}']]),
]


@pytest.mark.parametrize(("parser", "text", "calls"), VARIANTS)
def test_variants_that_models_write(parser, text, calls):
    found = whole(text, parser)
    assert (found.calls, found.content) == (calls, "")


NO_CALLS = [
    (HERMES, "<tool_call>"),
    (HERMES, "<tool_call>\nnone\n</tool_call> then"),
    (HERMES, '<tool_call>{"nome": "f"}</tool_call>'),
    (HERMES, '<tool_call>{"name": ""}</tool_call>'),
    (HERMES, '<tool_call>{"name": 7}</tool_call>'),
    (HERMES, '<tool_call>{"name": "\\ud800"}'),
    (HERMES, '<tool_call>{"name": "f'),
    (HERMES, '<tool_call>{"arguments": {"a": 1}'),
    (HERMES, "a <tool_cal"),
    (HERMES, "  <tool_call <tool_call"),
    (LLAMA3, '{"name": "Bob", "age": 3}'),
    (LLAMA3, "<|python_tag|>print('hi')"),
    (LLAMA3, 'I call {"name": "f", "parameters": {}}'),
    (MISTRAL, "[TOOL_CALLS] many words and no call"),
    (MISTRAL, "[TOOL_CALLS]" + "x" * 600 + "{}"),
    (PHI4, "functools are [fine]"),
    (GENERIC, "[1] is a reference"),
    (GENERIC, "```json\n[1, 2]\n```"),
    (GENERIC, '{"function": {"a": 1, "_name": "f"}}'),
    (GENERIC, " " * 100 + "\n\t "),
]


@pytest.mark.parametrize(("parser", "text"), NO_CALLS)
def test_what_is_no_call_is_given_back_as_it_was(parser, text):
    found = whole(text, parser)
    assert (found.content, found.calls) == (text, [])


def test_after_a_false_call_a_right_one_is_found():
    found = whole('a <tool_call><tool_call>{"name": "f"}</tool_call> b', HERMES)
    assert found.calls == [["f", "{}"]]
    assert found.content == "a <tool_call> b"


def test_arguments_that_break_end_the_call_and_the_rest_is_content():
    found = whole('<tool_call>{"name": "f", "arguments": {"a": 1]}</tool_call>', HERMES)
    assert found.calls == [["f", '{"a": 1']]
    assert (found.content, found.complete) == ("]}</tool_call>", False)


def test_a_separator_without_a_call_is_content():
    found = whole('{"name": "f", "parameters": {}}; done', LLAMA3)
    assert (found.calls, found.content) == ([["f", "{}"]], "; done")


THOUGHTS = [
    ("<think>\nhm\n</think>\n\nHi", "", "hm", "Hi"),
    ("\n<think>hm</think>Hi <think>x</think>", "", "hm", "Hi <think>x</think>"),
    ("hm\n</think>\n\nHi", "<assistant><think>\n", "hm", "Hi"),
    ("<think>hm</think>Hi", "<think>\n", "hm", "Hi"),
    ("Hi", "<think>\n\n</think>\n\n", "", "Hi"),
    ("<think>hm, </thin", "", "hm, </thin", ""),
    ("<thin", "", "", "<thin"),
    ("", "<think>", "", ""),
]


@pytest.mark.parametrize(("text", "prompt_end", "reasoning", "content"), THOUGHTS)
@pytest.mark.parametrize("tools", [None, HERMES, LLAMA3])
def test_thoughts(text, prompt_end, reasoning, content, tools):
    found = whole(text, tools, THINK, prompt_end=prompt_end)
    assert (found.reasoning, found.content, found.calls) == (reasoning, content, [])


def test_other_marks_of_thoughts():
    found = whole("[THINK]hm[/THINK]Hi", None, MAGISTRAL)
    assert (found.reasoning, found.content) == ("hm", "Hi")


def test_a_call_inside_a_thought_is_not_swallowed():
    text = '<think>so <tool_call>{"name": "f"}</tool_call> and</think>Hi'
    found = whole(text, HERMES, THINK)
    assert (found.reasoning, found.content) == ("so and", "Hi")
    assert found.calls == [["f", "{}"]]


def test_a_mention_of_a_mark_inside_a_thought_stays_there():
    found = whole("<think>a <tool_call> would</think>Hi", HERMES, THINK)
    assert (found.reasoning, found.content) == ("a <tool_call> would", "Hi")


def test_only_what_may_be_a_mark_is_held_back():
    parser = AnswerParser(tools=HERMES)
    assert parser.push("Hello").content == "Hello"
    assert not parser.push(" \n")
    assert parser.push("a <").content == " \na"
    assert not parser.push("tool_call")
    assert parser.push("!").content == " <tool_call!"


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Tests share their processors with others."""
WORDS = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "</think>",
            "[TOOL_CALLS]",
            "functools",
            "```json",
        ),
        *(
            '{"name": "f"',
            ', "arguments": ',
            '"parameters": ',
            "{",
            "}",
            "[",
            "]",
            '"',
            "\\",
            ",",
            ";",
        ),
        *(" ", "\n", "a", "é", "名", "1", "null", "_name", '{"function": {"_name": "f"', "[ARGS]"),
        *("<\uff5ctool▁call▁begin\uff5c>", "<\uff5ctool▁sep\uff5c>"),
        *("<function=f>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>", "f\n"),
        *("</arg_key>", "<arg_value>", "</arg_value>", '<invoke name="f">', "</invoke>"),
        *("<|channel|>", "<|message|>", "<|end|>", "to=functions.f", "<|tool_call_begin|>"),
    ]
)


@settings(UNHURRIED, max_examples=300)
@given(
    st.lists(WORDS, max_size=30).map("".join),
    st.lists(st.integers(0, 400), max_size=20),
    st.sampled_from([None, *PARSERS.values()]),
    st.sampled_from([None, THINK, GPT_OSS]),
    st.booleans(),
)
def test_however_any_text_is_divided_the_outcome_is_the_same(
    text, cuts, tools, reasoning, one_call
):
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in pairwise(places)]
    expected = read([text], tools, reasoning, one_call=one_call)
    found = read(parts, tools, reasoning, one_call=one_call)
    assert (found.content, found.reasoning) == (expected.content, expected.reasoning)
    assert (found.calls, found.complete) == (expected.calls, expected.complete)


VALUES = (
    st.text(max_size=9)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
)
NESTED = st.recursive(
    VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)


@settings(UNHURRIED, max_examples=50)
@given(st.dictionaries(st.text(max_size=9), NESTED, max_size=4))
def test_arguments_arrive_unchanged(arguments):
    for name, parser in PARSERS.items():
        if parser.tagged is None:
            [[_, text]] = read(written(name, ("f", arguments)), parser).calls
            assert json.loads(text) == arguments


def type_of(value):
    names = {bool: "boolean", str: "string", type(None): "null", int: "integer", float: "number"}
    return names.get(type(value), "object" if isinstance(value, dict) else "array")


NAMES = st.text(st.characters(exclude_characters='<>"', exclude_categories=["Z", "C"]), min_size=1)


@settings(UNHURRIED, max_examples=50)
@given(st.dictionaries(NAMES, NESTED, max_size=4), st.lists(st.integers(0, 400), max_size=9))
def test_tagged_arguments_arrive_with_the_types_of_their_parameters(arguments, cuts):
    schema = {"properties": {name: {"type": type_of(v)} for name, v in arguments.items()}}
    for name, parser in PARSERS.items():
        if parser.tagged is not None:
            text = written(name, ("f", arguments))
            places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
            parts = [text[a:b] for a, b in pairwise(places)]
            found = read(parts, parser, functions={"f": schema})
            assert [json.loads(args) for _, args in found.calls] == [arguments]
            assert found.complete and not found.content


TAGGED = [
    ({"type": "string"}, "12", '"12"'),
    ({"type": "integer"}, "12", "12"),
    ({"type": "integer"}, " 12\n", "12"),
    ({"type": "integer"}, "a dozen", '"a dozen"'),
    ({"type": "number"}, "NaN", '"NaN"'),
    ({"type": "boolean"}, "True", "true"),
    ({"type": ["string", "null"]}, "None", "null"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", "null"),
    ({"type": ["string", "integer"]}, "12", '"12"'),
    ({"enum": ["1", "2"]}, "1", '"1"'),
    ({}, '{"a": [1]}', '{"a": [1]}'),
    ({}, "{'a': 1}", "\"{'a': 1}\""),
    ({"type": "array"}, "[" * 10_000, '"' + "[" * 10_000 + '"'),
    ({"type": "string"}, "\n\ntwo\n\n", '"\\ntwo\\n"'),
    ({"type": "string"}, "a </param </parameter", '"a </param </parameter"'),
]


@pytest.mark.parametrize(("schema", "text", "value"), TAGGED, ids=range(len(TAGGED)))
def test_a_text_in_a_tag_is_what_its_parameter_may_be(schema, text, value):
    functions = {"f": {"properties": {"a": schema}}}
    call = f"<tool_call><function=f><parameter=a>{text}</parameter></function></tool_call>"
    found = whole(call, PARSERS["qwen3_coder"], functions=functions)
    assert found.calls == [["f", f'{{"a": {value}}}']] and not found.content


HARMONY = [
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>",
     "hm", "Hi", []),
    ("<|channel|>final<|message|>Hi", "", "Hi", []),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
     "<|start|>assistant<|channel|>final<|message|>Hi", "ab", "Hi", []),
    ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f"
     ' <|constrain|>json<|message|>{"a": 1}<|call|>', "hm", "", [["f", '{"a": 1}']]),
    (' to=functions.f<|channel|>commentary json<|message|>{}<|call|>', "", "", [["f", "{}"]]),
    ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.f<|channel|>"
     "commentary<|message|>{}", "", "I look.", [["f", "{}"]]),
    ("Hi, to=functions. is how", "", "Hi, to=functions. is how", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "thought", "content", "calls"), HARMONY, ids=range(len(HARMONY)))
def test_channels_of_gpt_oss(text, thought, content, calls):
    found = whole(text, PARSERS["gpt_oss"], GPT_OSS)
    assert (found.reasoning, found.content, found.calls) == (thought, content, calls)


@pytest.mark.timeout(60)  # were it quadratic, it would be minutes
@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 5_000,
        "<tool_call" * 5_000,
        " " * 50_000,
        '<tool_call>{"a":"' * 3_000,
        '<tool_call>{"name":"f","arguments":' + "[" * 50_000,
        '<tool_call>{"name":"f","arguments":"' + "\\" * 50_000,
        '<tool_call>{"name":"f","arguments":{"a":"' + "x" * 50_000,
        '<tool_call>{"name":"f"}' * 2_000,
        "<function=" * 3_000,
        "<function=f><parameter=a>" + "</parameter" * 4_000,
        "<function=f>" + "<parameter=a>\n</parameter>" * 2_000,
    ],
    ids=range(11),
)
def test_the_time_is_linear(text):
    found = read(text, PARSERS["qwen3_coder"] if "=f" in text else HERMES, THINK)
    assert len(found.content) + len(found.calls) > 0
