"""Whether a server gives transformers' own greedy tokens of the real model, in kept answers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers import Server
from tgi_core.text.hf_plugin import load_tokenizer

GOLDEN = Path(__file__).parent / "golden" / "smollm2_greedy.json"
PROMPTS, NEW_TOKENS = (1, 5, 9, 13), 8
SHAPES = ("--dtype", "float32", "--max-batch-size", "3", "--max-total-tokens", "64")
"""Flags that suffice for these, and make few shapes."""


def check_answers(server: Server, folder: Path) -> None:
    """More at once than there are rows, in the words that the kept answers begin with."""
    golden, tokenizer = json.loads(GOLDEN.read_text()), load_tokenizer(folder)

    def tokens_of(i: int) -> list[int]:
        text = tokenizer.decode(golden["prompts"][i], skip_special_tokens=False)
        assert list(tokenizer.encode(text, add_special_tokens=False)) == golden["prompts"][i]
        parameters = {"max_new_tokens": NEW_TOKENS, "details": True}
        status, body = server.post("/generate", {"inputs": text, "parameters": parameters})
        assert status == 200, body
        return [token["id"] for token in json.loads(body)["details"]["tokens"]]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        for i, tokens in zip(PROMPTS, pool.map(tokens_of, PROMPTS), strict=True):
            assert tokens == golden["answers"][i][: len(tokens)], f"prompt {i}"
