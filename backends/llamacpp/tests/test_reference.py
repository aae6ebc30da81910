"""On a real model the backend writes what llama-cpp-python's own high-level class writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_functions
from tgi_backend_llamacpp.amx import buffer_choice

OFF = {"flash_attn": "off"}
PROMPTS = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCount from one to ten.<|im_end|>\n<|im_start|>assistant\n",
    "The three primary colours are",
]
NUM_NEW = 12


@pytest.fixture(scope="module")
def reference(smollm: Path) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Prompt tokens and greedy output of each prompt."""
    parameters = llama_functions.llama_model_default_params()
    # its class has no argument for this, and would die where AMX kernels do
    parameters.use_extra_bufts = buffer_choice().extra_buffers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_functions, "llama_model_default_params", lambda: parameters)
        llama = Llama(
            str(smollm), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, flash_attn=False
        )
    outputs = []
    for prompt in PROMPTS:
        tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
        llama.reset()
        stream = llama.generate(tokens, temp=0.0, top_k=1, repeat_penalty=1.0)
        outputs.append((tokens, [next(stream) for _ in range(NUM_NEW)]))
    llama.close()
    yield outputs


def test_greedy_alone_is_the_same(smollm: Path, drive: Callable, reference: list) -> None:
    driver = drive(smollm, options=OFF, max_sequence_tokens=256, cache_tokens=256)
    for prompt, expected in reference:
        driver.release(0)
        written, tokens = [], prompt
        for _ in range(NUM_NEW):
            tokens = [int(driver.step({0: tokens})[0].argmax())]
            written += tokens
        assert written == expected


@pytest.mark.parametrize(
    ("flash", "cache"),
    [("off", 768), ("on", 768), ("auto", 20 * 256)],
    ids=["pool-off", "pool-on", "streams"],
)
def test_in_a_batch_the_same_tokens_are_best_up_to_rounding(
    smollm: Path, drive: Callable, reference: list, flash: str, cache: int
) -> None:
    """A batch takes other kernels, whose rounding moves logits of this 4-bit model by about 1."""
    options = {"flash_attn": flash}
    driver = drive(smollm, options=options, max_sequence_tokens=256, cache_tokens=cache)
    logits = [driver.step({seq: prompt for seq, (prompt, _) in enumerate(reference)})]
    for i in range(NUM_NEW - 1):
        logits.append(driver.step({seq: [out[i]] for seq, (_, out) in enumerate(reference)}))
    behind = [
        rows.max() - rows[reference[seq][1][i]]
        for i, step in enumerate(logits)
        for seq, rows in enumerate(step)
    ]
    assert max(behind) < 2 and np.mean(np.array(behind) == 0) > 0.8


@pytest.mark.parametrize("cache", [256, 20 * 256], ids=["pool", "streams"])
def test_a_parked_prompt_serves_another_request(
    smollm: Path, drive: Callable, reference: list, cache: int
) -> None:
    prompt, expected = reference[0]
    driver = drive(smollm, options=OFF, max_sequence_tokens=256, cache_tokens=cache)
    driver.step({0: prompt})
    driver.fork(0, 1, len(prompt) - 3)
    driver.release(0)
    written, tokens = [], prompt[-3:]
    for _ in range(NUM_NEW):
        tokens = [int(driver.step({1: tokens})[0].argmax())]
        written += tokens
    assert written == expected
