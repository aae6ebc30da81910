"""GLM 4.5 to 4.7: `<tool_call>NAME`, then `<arg_key>` and `<arg_value>` in pairs."""

from __future__ import annotations

from tgi_core.contract import TaggedArguments, ToolCallParser

GLM4 = ToolCallParser(
    name="glm4",
    contract=(1, 0),
    signs=("<arg_key>",),
    openings=("<tool_call>",),
    head=r"\s*(?P<name>[^<>\s]+)(\s|(?P<next><))",
    tagged=TaggedArguments(
        begin="<arg_key>", name=r"(?P<name>[^<>]+)</arg_key>\s*<arg_value>", end="</arg_value>"
    ),
    closings=("</tool_call>",),
    tokens=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
