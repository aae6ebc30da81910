"""TensorRT-LLM's LLM API without a GPU: the same names and arguments, a model computed on the CPU.

Written from NVIDIA's documentation and sources. It takes what releases 1.2 and 1.3 take, as
`released/` records, refuses every other argument, and fails where they would ignore a wish in
silence.
"""

from tensorrt_llm.llmapi import LLM, SamplingParams

__version__ = "1.2.1"

__all__ = ["LLM", "SamplingParams", "__version__"]
