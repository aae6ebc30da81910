"""Qwen3-Coder and Qwen 3.5: `<tool_call>` around `<function=NAME>`, each argument a tag."""

from __future__ import annotations

from tgi_core.contract import TaggedArguments, ToolCallParser

QWEN3_CODER = ToolCallParser(
    name="qwen3_coder",
    contract=(1, 0),
    signs=("<function=",),
    # the first one is forgotten at times
    openings=("<tool_call>", "<function="),
    head=r"(\s*<function=)?(?P<name>[^<>\s]+)>",
    tagged=TaggedArguments(
        begin="<parameter=", name=r"(?P<name>[^<>]+)>", end="</parameter>", padded=True
    ),
    closings=("</function>", "</tool_call>"),
)
