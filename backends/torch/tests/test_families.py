"""Whatever the batches look like, each family computes what transformers computes."""

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

FAMILIES = [
    "llama",
    "llama, tied",
    "qwen2",
    "qwen3",
    "mistral, sliding",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "phi",
    pytest.param(
        "opt",
        marks=pytest.mark.skipif(
            transformers.__version__ < "5", reason="OPT of transformers 4 makes its own mask"
        ),
    ),
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, family_folder, drive):
    driver = drive(family_folder(family), max_rows=6, max_sequence_tokens=160)
    rng = np.random.default_rng(7)

    def new(n):
        return rng.integers(3, 97, n).tolist()

    driver.check({0: new(19), 1: new(3)})  # two prompts
    driver.check({1: [5], 2: new(1), 0: new(18)})  # a chunk, a decode and a one-token prompt
    driver.fork(0, 3, 29)  # in the middle of a block
    driver.fork(0, 4, 32)  # at its end
    driver.check({3: [8], 0: [9], 4: [10], 2: [11]})  # both sides of the forks go on
    driver.check({0: new(3), 1: new(3), 3: new(3), 2: new(2)})  # drafts of equal lengths and not
    driver.truncate(0, 21)
    driver.truncate(3, 31)
    driver.check({4: [12], 0: [13], 3: new(21)})
    driver.release(1)
    driver.check({1: new(33), 2: [14]})  # the id and its blocks have been used before
    for _ in range(25):  # past two blocks and every sliding window, some rows idle
        rows = [seq for seq in (4, 0, 1, 3, 2) if rng.random() < 0.7] or [0]
        driver.check({seq: new(1) for seq in rows})


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family, family_folder, drive):
    driver = drive(family_folder(family))
    rng = np.random.default_rng(11)
    prompts = {seq: rng.integers(3, 97, n).tolist() for seq, n in enumerate((30, 4, 17))}
    tokens = {seq: [] for seq in prompts}
    waiting = dict(prompts)
    for round in range(30):
        rows = {seq: [tokens[seq][-1]] for seq in tokens if tokens[seq]}
        if round % 4 == 0 and waiting:  # a prompt joins while the others decode
            seq, prompt = waiting.popitem()
            rows[seq] = prompt
        for seq, logits in driver.step(rows).items():
            tokens[seq].append(int(logits[-1].argmax()))
    greedy = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0)
    driver.reference.generation_config.eos_token_id = None  # random models end at random
    for seq, prompt in prompts.items():
        whole = driver.reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=greedy,
        )
        assert tokens[seq][:20] == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_these_models_would_show_a_lost_token(family, family_folder, drive):
    """The tests above could not fail if the logits hardly depended on the past."""
    driver = drive(family_folder(family))
    one, other = (driver.expected([first, *range(20, 39)])[-1] for first in (5, 6))
    far = "sliding" in family or family in ("gemma2", "gemma3", "gpt_oss")
    assert np.abs(one - other).max() > (1e-3 if far else 1e-2)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_long_rows_may_be_computed_in_pieces(family, family_folder, drive, monkeypatch):
    monkeypatch.setattr("tgi_backend_torch.attention._PLAIN_SCORES", 1000)
    driver = drive(family_folder(family))
    driver.check({0: list(range(10, 60)), 1: list(range(20, 40))})
    driver.check({0: list(range(10, 30)), 1: [5]})
    driver.check({0: [6, 7, 8], 1: [7, 8, 9]})
