"""Tiny random models on disk, and a driver that steps a backend beside transformers itself."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch.runner import TorchBackend

from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat, Step

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

FAMILIES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**GQA),
    "llama, tied": lambda: transformers.LlamaConfig(**GQA, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**GQA),
    "qwen3": lambda: transformers.Qwen3Config(**GQA, head_dim=16),
    "mistral, sliding": lambda: transformers.MistralConfig(**GQA, sliding_window=20),
    "gemma2": lambda: transformers.Gemma2Config(
        **GQA, head_dim=8, sliding_window=20, query_pre_attn_scalar=8, attn_logit_softcapping=2.0
    ),
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
    model.save_pretrained(folder, **saving)
    return folder


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """Name of a family -> folder with a model of it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / "model"
            made[name] = make_model(folder, FAMILIES[name]())
        return made[name]

    return make


@pytest.fixture
def new_model(tmp_path):
    """(config, how to save) -> folder of a model that the test may damage."""
    return lambda config, **saving: make_model(tmp_path / "model", config, **saving)


@pytest.fixture
def llama_config():
    return lambda **more: transformers.LlamaConfig(**{**GQA, **more})


def request_for(folder: Path, **wishes) -> LoadRequest:
    files = ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS)
    return LoadRequest(model=files, **{"dtype": DType.FLOAT32, "cache_tokens": 1024, **wishes})


@pytest.fixture
def make_request():
    return request_for


@pytest.fixture
def load():
    """Loads a backend, and closes it after the test."""
    backends = []

    def load_backend(folder: Path, **wishes) -> TorchBackend:
        backend = TorchBackend()
        backend.capabilities = backend.load(request_for(folder, **wishes), lambda *_: None)
        backends.append(backend)
        return backend

    yield load_backend
    for backend in backends:
        backend.close()


class Driver:
    """Remembers what each sequence holds, and compares every logit with the reference."""

    def __init__(self, backend: TorchBackend, folder: Path) -> None:
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


@pytest.fixture
def drive(load):
    """Folder -> Driver."""
    return lambda folder, **wishes: Driver(load(folder, **wishes), folder)
