"""Marks of reasoning that come with core; each file is one."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.builtin.reasoning_parsers.gpt_oss import GPT_OSS
from tgi_core.builtin.reasoning_parsers.magistral import MAGISTRAL
from tgi_core.builtin.reasoning_parsers.think import THINK
from tgi_core.contract import ReasoningParser
from tgi_core.plugin import hookimpl


@hookimpl
def tgi_reasoning_parsers() -> Sequence[ReasoningParser]:
    """The marks that come with core."""
    return (THINK, MAGISTRAL, GPT_OSS)
