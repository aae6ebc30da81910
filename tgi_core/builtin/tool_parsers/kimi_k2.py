"""Kimi K2: tags of special tokens around `functions.NAME:NUMBER` and its JSON."""

from __future__ import annotations

from tgi_core.contract import ToolCallParser

_BEGIN, _ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_argument_begin|>"

KIMI_K2 = ToolCallParser(
    name="kimi_k2",
    contract=(1, 0),
    signs=("<|tool_calls_section_begin|>",),
    openings=("<|tool_calls_section_begin|>", _BEGIN),
    head=(
        rf"({_BEGIN})?\s*(functions\.)?(?P<name>[^\s:<]+)(:\d+)?\s*{_ARGUMENTS}".replace("|", r"\|")
    ),
    closings=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
    tokens=(_ARGUMENTS,),
    forced_beginning=(f"<|tool_calls_section_begin|>{_BEGIN}functions.{{name}}:0{_ARGUMENTS}"),
)
