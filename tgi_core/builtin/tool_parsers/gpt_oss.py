"""gpt-oss: a message of the channel for commentary that goes to `functions.NAME`.

The names of channels are dropped by the reasoning parser of that name.
"""

from __future__ import annotations

from tgi_core.contract import ToolCallParser

GPT_OSS = ToolCallParser(
    name="gpt_oss",
    contract=(1, 0),
    signs=("<|channel|>",),
    # stands in front of the channel or behind it
    openings=("to=functions.",),
    head=(
        r"(?P<name>[^\s<]+)\s*(<\|channel\|>\s*\w+)?\s*(<\|constrain\|>)?\s*(json)?\s*<\|message\|>"
    ),
    closings=("<|call|>",),
    tokens=("<|channel|>", "<|constrain|>", "<|message|>"),
    forced_beginning=" to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>",
)
