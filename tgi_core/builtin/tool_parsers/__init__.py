"""Formats of tool calls that come with core; each file is one."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.builtin.tool_parsers.deepseek import DEEPSEEK
from tgi_core.builtin.tool_parsers.generic import GENERIC
from tgi_core.builtin.tool_parsers.glm4 import GLM4
from tgi_core.builtin.tool_parsers.gpt_oss import GPT_OSS
from tgi_core.builtin.tool_parsers.hermes import HERMES
from tgi_core.builtin.tool_parsers.kimi_k2 import KIMI_K2
from tgi_core.builtin.tool_parsers.llama3 import LLAMA3
from tgi_core.builtin.tool_parsers.minimax import MINIMAX
from tgi_core.builtin.tool_parsers.mistral import MISTRAL
from tgi_core.builtin.tool_parsers.phi4 import PHI4
from tgi_core.builtin.tool_parsers.qwen3_coder import QWEN3_CODER
from tgi_core.contract import ToolCallParser
from tgi_core.plugin import hookimpl


@hookimpl
def tgi_tool_parsers() -> Sequence[ToolCallParser]:
    """The formats that come with core; of those that share an opening the stricter come first."""
    return (
        *(QWEN3_CODER, GLM4, HERMES, LLAMA3, MISTRAL),
        *(DEEPSEEK, PHI4, GPT_OSS, KIMI_K2, MINIMAX, GENERIC),
    )
