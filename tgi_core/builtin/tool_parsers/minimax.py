"""MiniMax M2: `<minimax:tool_call>` around `<invoke name="NAME">`, each argument a tag."""

from __future__ import annotations

from tgi_core.contract import TaggedArguments, ToolCallParser

MINIMAX = ToolCallParser(
    name="minimax",
    contract=(1, 0),
    signs=("<minimax:tool_call>",),
    # the second one is that of further calls
    openings=("<minimax:tool_call>", "<invoke name="),
    head=r'(\s*<invoke name=)?"?(?P<name>[^<>"\s]+)"?>',
    tagged=TaggedArguments(
        begin="<parameter name=", name=r'"?(?P<name>[^<>"]+)"?>', end="</parameter>"
    ),
    closings=("</invoke>", "</minimax:tool_call>"),
)
