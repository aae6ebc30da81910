"""Models with an encoder decode, in any batch, what transformers decodes."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tests.families import ENCODING, EncodingDriver, sample_of


@pytest.fixture
def drive_encoding(family_folder, load):
    return lambda family, **wishes: EncodingDriver(
        load(family_folder(family), **wishes), family_folder(family)
    )


def new(seed, n):
    return np.random.default_rng(seed).integers(3, 97, n).tolist()


@pytest.mark.parametrize("family", ENCODING)
def test_logits_are_those_of_a_whole_forward_in_any_batch(family, drive_encoding):
    driver = drive_encoding(family, max_rows=6, max_sequence_tokens=160)
    [start] = driver.backend.capabilities.encoder.start
    driver.check({0: [start], 1: [start, 5]}, {0: new(1, 19), 1: new(2, 3)})
    driver.check({1: [7], 2: [start], 0: [8]}, {2: new(3, 33)})  # a prompt beside rows that decode
    driver.check({0: new(4, 3), 2: new(5, 17), 1: [9]})
    driver.fork(0, 3, 0)  # just what the encoder has made
    driver.fork(0, 4, 3)
    driver.check({3: [start], 4: [11], 0: [12]})
    driver.truncate(2, 4)
    driver.check({2: [13], 3: [14]})
    driver.release(1)
    driver.check(
        {1: [start], 0: [15]}, {1: new(6, 5)}
    )  # the id and its blocks have been used before
    for turn in range(6):
        driver.check({seq: [20 + turn + seq] for seq in (4, 0, 1, 3, 2) if (seq + turn) % 3})


@pytest.mark.parametrize("family", sample_of([*ENCODING]))
def test_greedy_tokens_are_those_of_generate(family, drive_encoding):
    driver = drive_encoding(family)
    start = list(driver.backend.capabilities.encoder.start)
    prompts = {0: new(1, 30), 1: new(2, 4), 2: new(3, 17)}
    decoded = {seq: list(start) for seq in prompts}
    for seq, logits in driver.step(decoded, prompts).items():
        decoded[seq].append(int(logits[-1].argmax()))
    for _ in range(19):
        for seq, logits in driver.step({seq: [some[-1]] for seq, some in decoded.items()}).items():
            decoded[seq].append(int(logits[-1].argmax()))
    own = driver.reference.generation_config
    own.eos_token_id = own.forced_eos_token_id = None  # random models end at random
    greedy = GenerationConfig(
        max_new_tokens=20 + len(start) - 1,
        do_sample=False,
        pad_token_id=0,
        decoder_start_token_id=start[0],
        forced_bos_token_id=own.forced_bos_token_id,
    )
    for seq, prompt in prompts.items():
        whole = driver.reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=greedy,
        )
        assert decoded[seq] == whole[0].tolist()


@pytest.mark.parametrize("family", sample_of([*ENCODING]))
def test_these_models_would_show_a_lost_token(family, drive_encoding):
    """The tests above could not fail if the logits hardly depended on prompt and past."""
    driver = drive_encoding(family)
    prompt = new(1, 10)
    want = driver.expected(prompt, [0, 5, 6])[-1]
    assert np.abs(driver.expected([9, *prompt[1:]], [0, 5, 6])[-1] - want).max() > 1e-3
    assert np.abs(driver.expected(prompt, [0, 7, 6])[-1] - want).max() > 1e-3
