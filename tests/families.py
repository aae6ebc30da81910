"""Tiny random models of many families, and what any backend must do with them.

`Driver` steps a backend beside transformers itself; the two checks are what backends' own tests
run on every family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat, Step, StepBackend

VOCAB = 97
SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=256,
    initializer_range=0.2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GQA = dict(SIZES, intermediate_size=48, num_key_value_heads=2)

SAMPLE = ("llama", "gemma3", "gpt2", "mixtral")
"""Families that differ as much as they can."""

FAMILIES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**GQA),
    "llama, tied": lambda: transformers.LlamaConfig(**GQA, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**GQA),
    "qwen3": lambda: transformers.Qwen3Config(**GQA, head_dim=16),
    "mistral, sliding": lambda: transformers.MistralConfig(**GQA, sliding_window=20),
    "gemma2": lambda: transformers.Gemma2Config(
        **GQA, head_dim=8, sliding_window=20, query_pre_attn_scalar=8, attn_logit_softcapping=2.0
    ),
    "gemma": lambda: transformers.GemmaConfig(**GQA, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**GQA, head_dim=8, sliding_window=20),
    "gpt2": lambda: transformers.GPT2Config(**SIZES),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(**SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES, intermediate_size=48),
    "phi": lambda: transformers.PhiConfig(**SIZES, intermediate_size=48),
    "opt": lambda: transformers.OPTConfig(
        **{k: v for k, v in SIZES.items() if k != "initializer_range"},
        init_std=0.2,
        ffn_dim=48,
        word_embed_proj_dim=32,
    ),
    "phi3, sliding": lambda: transformers.Phi3Config(**GQA, sliding_window=20),
    "starcoder2, sliding": lambda: transformers.Starcoder2Config(**GQA, sliding_window=20),
    "stablelm": lambda: transformers.StableLmConfig(**GQA),
    "cohere": lambda: transformers.CohereConfig(**GQA),
    "cohere2, sliding": lambda: transformers.Cohere2Config(**GQA, sliding_window=20),
    "granite": lambda: transformers.GraniteConfig(
        **GQA, embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.3
    ),
    "olmo": lambda: transformers.OlmoConfig(**GQA),
    "olmo2": lambda: transformers.Olmo2Config(**GQA),
    "smollm3": lambda: transformers.SmolLM3Config(**GQA),
    "glm4": lambda: transformers.Glm4Config(**GQA, head_dim=8),
    "ernie4_5": lambda: transformers.Ernie4_5Config(**GQA, head_dim=8),
    "seed_oss": lambda: transformers.SeedOssConfig(**GQA, head_dim=8),
    "exaone4": lambda: transformers.Exaone4Config(**GQA, sliding_window=20),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **GQA, moe_intermediate_size=16, shared_expert_intermediate_size=24, num_experts=4
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **GQA, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
    ),
    "granitemoe": lambda: transformers.GraniteMoeConfig(**GQA, num_local_experts=4),
    "olmoe": lambda: transformers.OlmoeConfig(**GQA, num_experts=4, num_experts_per_tok=2),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **dict(GQA, num_key_value_heads=4),
        moe_intermediate_size=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
    ),
    "mixtral": lambda: transformers.MixtralConfig(**GQA, num_local_experts=4),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **GQA, head_dim=8, sliding_window=20, num_local_experts=4, num_experts_per_tok=2
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **dict(GQA, num_key_value_heads=4),
        moe_intermediate_size=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
    ),
}


def make_model(folder: Path, config: transformers.PretrainedConfig, **saving) -> Path:
    torch.manual_seed(20261121)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and sinks are 0 and norms 1 until trained
                parameter.add_(torch.randn_like(parameter) * 0.1)
    transformers.logging.disable_progress_bar()  # a test may look at what is printed
    model.save_pretrained(folder, **saving)
    transformers.logging.enable_progress_bar()
    return folder


def sample_of(families: Sequence[Any]) -> list[Any]:
    """Parameters of a test that few families are enough for, in `make test`."""
    params = [each if hasattr(each, "marks") else pytest.param(each) for each in families]
    return [
        each
        if each.values[0] in SAMPLE
        else pytest.param(*each.values, marks=[*each.marks, pytest.mark.long])
        for each in params
    ]


def request_for(folder: Path, **wishes) -> LoadRequest:
    files = ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS)
    return LoadRequest(model=files, **{"dtype": DType.FLOAT32, "cache_tokens": 1024, **wishes})


class Driver:
    """Remembers what each sequence holds, and compares every logit with the reference."""

    def __init__(self, backend: StepBackend, folder: Path) -> None:
        self.backend = backend
        self.reference = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.held: dict[int, list[int]] = {}

    def expected(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (len(tokens), vocab)."""
        with torch.inference_mode():
            return self.reference(torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()

    def step(self, rows: dict[int, list[int]]) -> dict[int, np.ndarray]:
        """Appends tokens to sequences in one step; the logits of all of them, by sequence."""
        past = {seq: len(self.held.get(seq, [])) for seq in rows}
        for seq, tokens in rows.items():
            assert self.backend.reserve(seq, past[seq] + len(tokens))
        tokens = [t for new in rows.values() for t in new]
        step = Step(
            seq=np.array(list(rows), np.int32),
            past=np.array([past[seq] for seq in rows], np.int32),
            n=np.array([len(new) for new in rows.values()], np.int32),
            tokens=np.array(tokens, np.int32),
            out=np.arange(len(tokens), dtype=np.int32),
        )
        logits = self.backend.step(step).numpy()
        assert logits.shape == (len(tokens), VOCAB)
        assert logits.dtype == np.float32
        for seq, new in rows.items():
            self.held.setdefault(seq, []).extend(new)
        begins = step.row_begins()
        return {seq: logits[begins[i] : begins[i + 1]] for i, seq in enumerate(rows)}

    def check(self, rows: dict[int, list[int]], tolerance: float = 1e-4) -> None:
        for seq, logits in self.step(rows).items():
            whole = self.expected(self.held[seq])
            np.testing.assert_allclose(logits, whole[-len(logits) :], atol=tolerance, rtol=1e-4)

    def fork(self, src: int, dst: int, length: int) -> None:
        assert self.backend.fork(src, dst, length)
        self.held[dst] = self.held[src][:length]

    def truncate(self, seq: int, length: int) -> None:
        self.backend.truncate(seq, length)
        del self.held[seq][length:]

    def release(self, seq: int) -> None:
        self.backend.release(seq)
        self.held.pop(seq, None)


def check_any_batch(driver: Driver) -> None:
    """Logits are those of a whole forward, whatever the batches look like."""
    rng = np.random.default_rng(7)

    def new(n: int) -> list[int]:
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


def check_greedy(driver: Driver) -> None:
    """Greedy tokens are those of `generate`."""
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
