"""What transformers' own `generate` makes of the prompts, in float32, one at a time.

    python -m tests.e2e.oracle .models/smollm2-135m-instruct > tests/golden/smollm2_greedy.json

It takes minutes, so the answers are kept; a test generates some of them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NEW_TOKENS = 64


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def generate(model: Any, prompt: tuple[int, ...], count: int = NEW_TOKENS) -> list[int]:
    """Greedy tokens; end-of-sequence tokens do not end them."""
    import torch

    tokens = torch.tensor([prompt])
    with torch.inference_mode():
        made = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return made[0, len(prompt) :].tolist()


def margin(model: Any, tokens: list[int], one: int, other: int) -> float:
    """How far apart the logits of two candidates are after these tokens."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]
    return abs(float(logits[one] - logits[other]))


def main(folder: Path) -> None:
    from tests.e2e.prompts import make_prompts
    from tgi_core.text.hf_plugin import load_tokenizer

    tokenizer = load_tokenizer(folder)
    prompts = make_prompts(lambda text: tokenizer.encode(text, add_special_tokens=False))
    model = load(folder)
    answers = [generate(model, prompt) for prompt in prompts]
    json.dump({"prompts": prompts, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
