"""gpt-oss: thoughts are messages of the channel for analysis; the names of channels are dropped."""

from __future__ import annotations

from tgi_core.contract import ReasoningParser

_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")

GPT_OSS = ReasoningParser(
    name="gpt_oss",
    contract=(1, 0),
    signs=("<|channel|>",),
    begin="<|channel|>analysis<|message|>",
    end="<|end|>",
    again=True,
    dropped=(
        *("<|start|>assistant", "<|channel|>final", "<|channel|>commentary"),
        *("<|message|>", "<|end|>", "<|return|>", "<|call|>"),
    ),
    tokens=_TOKENS,
)
