"""Tiny random models of many families, and what any backend must do with them.

`Driver` steps a backend beside transformers itself; the two checks are what backends' own tests
run on every family.

More than 400 lines, for a family is a few lines and there are many.
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
SMALL = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    initializer_range=0.2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
TWO_LAYERS = dict(num_hidden_layers=2, num_attention_heads=4)

SAMPLE = ("llama", "gemma3", "gpt2", "mixtral", "bloom", "mamba2", "bamba", "t5", "bart")
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
    "falcon, 7B": lambda: transformers.FalconConfig(
        **SMALL, **TWO_LAYERS, multi_query=True, new_decoder_architecture=False
    ),
    "falcon, 40B and 180B": lambda: transformers.FalconConfig(
        **SMALL, **TWO_LAYERS, num_kv_heads=2, new_decoder_architecture=True
    ),
}

PADDED: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "bloom": lambda: transformers.BloomConfig(**SMALL, n_layer=2, n_head=4),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=VOCAB, d_model=32, n_heads=4, n_layers=2, max_seq_len=256, expansion_ratio=2
    ),
    "falcon, ALiBi": lambda: transformers.FalconConfig(
        **SMALL, **TWO_LAYERS, alibi=True, multi_query=False, parallel_attn=False
    ),
    "gptj": lambda: transformers.GPTJConfig(**SIZES, rotary_dim=8),
    "codegen": lambda: transformers.CodeGenConfig(**SIZES, n_ctx=256, rotary_dim=8),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        **{k: v for k, v in SIZES.items() if k != "num_hidden_layers"},
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        window_size=20,
    ),
    "llama4_text": lambda: transformers.Llama4TextConfig(
        **GQA, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, attention_chunk_size=20
    ),
}
"""Families that compute attention by themselves, or need masks that a flat batch has not."""

RECURRENT: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "mamba": lambda: transformers.MambaConfig(**SMALL, num_hidden_layers=2),
    "mamba2": lambda: transformers.Mamba2Config(
        **SMALL, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=16, n_groups=1
    ),
    "falcon_mamba": lambda: transformers.FalconMambaConfig(**SMALL, num_hidden_layers=2),
    "jamba": lambda: transformers.JambaConfig(
        **GQA, num_experts=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False
    ),
    "bamba": lambda: transformers.BambaConfig(
        **GQA, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16, attn_layer_indices=[1]
    ),
    "granitemoehybrid": lambda: transformers.GraniteMoeHybridConfig(
        **GQA,
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=16,
        num_local_experts=0,
        shared_intermediate_size=16,
    ),
    "falcon_h1": lambda: transformers.FalconH1Config(
        **GQA, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16
    ),
    "lfm2": lambda: transformers.Lfm2Config(**GQA, layer_types=["conv", "full_attention"]),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        **GQA,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
}
"""Families with a state of the whole sequence, alone or beside attention."""

_SEQ2SEQ = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=0)
_BART = dict(
    _SEQ2SEQ,
    vocab_size=VOCAB,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=256,
    init_std=0.2,
)
_T5 = dict(
    _SEQ2SEQ,
    vocab_size=VOCAB,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=40,
)

ENCODING: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "t5": lambda: transformers.T5Config(**_T5),
    "t5, FLAN": lambda: transformers.T5Config(
        **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "mt5": lambda: transformers.MT5Config(**_T5),
    "umt5": lambda: transformers.UMT5Config(**_T5),
    "bart": lambda: transformers.BartConfig(**_BART),
    "mbart": lambda: transformers.MBartConfig(**_BART),
    "pegasus": lambda: transformers.PegasusConfig(**_BART),
    # its positions do not count padding, so its decoder cannot begin with that
    "m2m_100": lambda: transformers.M2M100Config(**{**_BART, "decoder_start_token_id": 2}),
}
"""Families with an encoder."""


def make_model(folder: Path, config: transformers.PretrainedConfig, **saving) -> Path:
    torch.manual_seed(20261121)
    model = _auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # biases and sinks are 0 and norms 1 until trained
            if parameter.dim() == 1 or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif 0 < parameter.std() < 0.1:  # where initializer_range has no say
                parameter.mul_(0.2 / parameter.std())
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


def _auto_class(config: transformers.PretrainedConfig) -> type:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def request_for(folder: Path, **wishes) -> LoadRequest:
    files = ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS)
    return LoadRequest(model=files, **{"dtype": DType.FLOAT32, "cache_tokens": 1024, **wishes})


class Driver:
    """Remembers what each sequence holds, and compares every logit with the reference."""

    def __init__(self, backend: StepBackend, folder: Path) -> None:
        self.backend = backend
        config = transformers.AutoConfig.from_pretrained(folder)
        # Falcon's eager attention adds ALiBi twice; what it takes by default does not
        attention = None if config.model_type == "falcon" else "eager"
        self.reference = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
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


class EncodingDriver:
    """The same for models with an encoder: each sequence has a prompt, and what is decoded."""

    def __init__(self, backend: StepBackend, folder: Path) -> None:
        self.backend = backend
        self.reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.prompts: dict[int, list[int]] = {}
        self.held: dict[int, list[int]] = {}

    def expected(self, prompt: Sequence[int], decoded: Sequence[int]) -> np.ndarray:
        """float32 (len(decoded), vocab)."""
        with torch.inference_mode():
            return (
                self.reference(
                    input_ids=torch.tensor([list(prompt)]),
                    decoder_input_ids=torch.tensor([list(decoded)]),
                    use_cache=False,
                )
                .logits[0]
                .numpy()
            )

    def step(
        self, rows: dict[int, list[int]], prompts: dict[int, list[int]] | None = None
    ) -> dict[int, np.ndarray]:
        """Appends decoder tokens to sequences, those of `prompts` being new; all their logits."""
        fresh = prompts or {}
        self.prompts.update(fresh)
        flat, out, past, lengths = [], [], [], []
        for seq, new in rows.items():
            before = 0 if seq in fresh else len(self.prompts[seq]) + len(self.held[seq])
            tokens = [*fresh.get(seq, ()), *new]
            assert self.backend.reserve(seq, before + len(tokens))
            flat += tokens
            out += range(len(flat) - len(new), len(flat))
            past.append(before)
            lengths.append(len(tokens))
        step = Step(
            seq=np.array(list(rows), np.int32),
            past=np.array(past, np.int32),
            n=np.array(lengths, np.int32),
            tokens=np.array(flat, np.int32),
            out=np.array(out, np.int32),
            encoded=np.array([len(self.prompts[seq]) for seq in rows], np.int32),
        )
        logits = np.split(
            self.backend.step(step).numpy(), np.cumsum([len(new) for new in rows.values()])[:-1]
        )
        for seq, new in rows.items():
            self.held[seq] = [*([] if seq in fresh else self.held[seq]), *new]
        return dict(zip(rows, logits, strict=True))

    def check(
        self, rows: dict[int, list[int]], prompts: dict[int, list[int]] | None = None
    ) -> None:
        for seq, logits in self.step(rows, prompts).items():
            whole = self.expected(self.prompts[seq], self.held[seq])
            np.testing.assert_allclose(logits, whole[-len(logits) :], atol=1e-4, rtol=1e-4)

    def fork(self, src: int, dst: int, length: int) -> None:
        """`length` counts decoder tokens."""
        assert self.backend.fork(src, dst, len(self.prompts[src]) + length)
        self.prompts[dst], self.held[dst] = self.prompts[src], self.held[src][:length]

    def truncate(self, seq: int, length: int) -> None:
        """`length` counts decoder tokens."""
        self.backend.truncate(seq, len(self.prompts[seq]) + length)
        del self.held[seq][length:]

    def release(self, seq: int) -> None:
        self.backend.release(seq)


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


def check_batches_that_go_on(driver: Driver) -> None:
    """As `check_any_batch`, of sequences that can be neither forked nor cut."""
    rng = np.random.default_rng(7)
    chunked = driver.backend.capabilities.chunked

    def new(n: int) -> list[int]:
        return rng.integers(3, 97, n).tolist()

    driver.check({0: new(19), 1: new(3)})
    driver.check({1: [5], 2: new(1), 0: new(18 if chunked else 1)})
    driver.check({2: [6], 1: [7], 3: new(3)})  # rows that go on beside one that begins
    driver.check({0: new(3 if chunked else 1), 1: new(3 if chunked else 1), 4: new(3)})
    driver.release(1)
    driver.check({1: new(33), 2: [14]})  # the id and its slot have been used before
    driver.truncate(3, 0)
    driver.check({3: new(5), 0: [9]})
    for _ in range(12):
        rows = [seq for seq in (4, 0, 1, 3, 2) if rng.random() < 0.7] or [0]
        driver.check({seq: new(1) for seq in rows})


def check_any_encoding(driver: EncodingDriver) -> None:
    """As `check_any_batch`, of models with an encoder."""
    [start] = driver.backend.capabilities.encoder.start
    driver.check({0: [start], 1: [start, 5]}, {0: _drawn(1, 19), 1: _drawn(2, 3)})
    # a prompt beside rows that decode
    driver.check({1: [7], 2: [start], 0: [8]}, {2: _drawn(3, 33)})
    driver.check({0: _drawn(4, 3), 2: _drawn(5, 17), 1: [9]})
    driver.fork(0, 3, 0)  # just what the encoder has made
    driver.fork(0, 4, 3)
    driver.check({3: [start], 4: [11], 0: [12]})
    driver.truncate(2, 4)
    driver.check({2: [13], 3: [14]})
    driver.release(1)
    # the id and its blocks have been used before
    driver.check({1: [start], 0: [15]}, {1: _drawn(6, 5)})
    for turn in range(6):
        driver.check({seq: [20 + turn + seq] for seq in (4, 0, 1, 3, 2) if (seq + turn) % 3})


def check_greedy_encoding(driver: EncodingDriver) -> None:
    """As `check_greedy`, of models with an encoder."""
    start = list(driver.backend.capabilities.encoder.start)
    prompts = {0: _drawn(1, 30), 1: _drawn(2, 4), 2: _drawn(3, 17)}
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


def _drawn(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 97, n).tolist()
