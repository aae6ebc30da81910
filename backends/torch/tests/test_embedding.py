"""Vectors of tiny random models against transformers in float32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch import encoder_plugin, plugin
from tgi_backend_torch.encoder import EncoderBackend

from tests.families import FAMILIES, SIZES, VOCAB, make_model, request_for
from tgi_core.contract import (
    DType,
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Pooling,
    Step,
)
from tgi_core.errors import BadModel, Unsupported, UnsupportedModel, UsageError
from tgi_core.testing.conformance import BackendConformance

ENCODER = {name: value for name, value in SIZES.items() if name != "bos_token_id"}
ENCODERS = {
    "bert": lambda: transformers.BertConfig(**ENCODER, intermediate_size=48),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(
        **{**ENCODER, "pad_token_id": 1}, intermediate_size=48
    ),
    "mpnet": lambda: transformers.MPNetConfig(
        **{**ENCODER, "pad_token_id": 1}, intermediate_size=48
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=48, initializer_range=0.2
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        **{**ENCODER, "pad_token_id": 0},
        intermediate_size=48,
        cls_token_id=1,
        sep_token_id=2,
        reference_compile=False,
    ),
    "mistral without a head": lambda: transformers.MistralConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2
    ),
}
ROWS = (1, 7, 30, 12)


def make_encoder(folder: Path, config: transformers.PretrainedConfig, **saving) -> Path:
    torch.manual_seed(20261124)
    model = transformers.AutoModel.from_config(config)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder, **saving)
    transformers.logging.enable_progress_bar()
    return folder


def with_pooling(folder: Path, **modes: object) -> Path:
    """The files of sentence-transformers."""
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def files_of(folder: Path) -> ModelFiles:
    return ModelFiles(reference=str(folder), path=folder, format=ModelFormat.SAFETENSORS)


def by_transformers(folder: Path, tokens: Sequence[int], pooling: Pooling) -> np.ndarray:
    # transformers 5.17 leaves out Gemma 2's soft cap by default
    model = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        hidden = model(torch.tensor([list(tokens)])).last_hidden_state[0].numpy()
    return {Pooling.FIRST: hidden[0], Pooling.LAST: hidden[-1], Pooling.MEAN: hidden.mean(0)}[
        pooling
    ]


def texts_step(texts: Sequence[Sequence[int]]) -> Step:
    return Step(
        seq=np.arange(len(texts), dtype=np.int32),
        past=np.zeros(len(texts), np.int32),
        n=np.array([len(text) for text in texts], np.int32),
        tokens=np.array([token for text in texts for token in text], np.int32),
        out=np.zeros(0, np.int32),
    )


def random_texts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    # no special tokens: some models count positions over those that are no padding
    return [rng.integers(4, VOCAB, length).tolist() for length in lengths]


@pytest.fixture
def load_encoder():
    backends = []

    def load(folder: Path, **wishes) -> EncoderBackend:
        backend = EncoderBackend()
        backend.capabilities = backend.load(request_for(folder, **wishes), lambda *_: None)
        backends.append(backend)
        return backend

    yield load
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("name", ENCODERS)
def test_texts_side_by_side_equal_transformers(tmp_path, load_encoder, name):
    folder = make_encoder(tmp_path / "model", ENCODERS[name]())
    backend = load_encoder(folder)
    claims = backend.capabilities
    assert not claims.generates and not claims.chunked and claims.embedding.size == 32
    causal = name.startswith("mistral")
    assert claims.embedding.pooling is (Pooling.LAST if causal else Pooling.MEAN)
    texts = random_texts(*ROWS)
    for vector, text in zip(backend.embed(texts_step(texts)), texts, strict=True):
        want = by_transformers(folder, text, claims.embedding.pooling)
        np.testing.assert_allclose(vector, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling.FIRST),
        ({"pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": False}, Pooling.LAST),
        ({"pooling_mode": "cls", "word_embedding_dimension": 32}, Pooling.FIRST),
    ],
)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_folders_pooling_is_taken(tmp_path, load, load_encoder, kind, modes, pooling):
    if kind == "encoder":
        folder = make_encoder(tmp_path / "model", ENCODERS["bert"]())
        backend = load_encoder(with_pooling(folder, **modes))
    else:
        folder = make_model(tmp_path / "model", FAMILIES["llama"]())
        backend = load(with_pooling(folder, **modes))
        backend.reserve(0, 9)
    assert backend.capabilities.embedding.pooling is pooling
    [text] = random_texts(9)
    [vector] = backend.embed(texts_step([text]))
    np.testing.assert_allclose(vector, by_transformers(folder, text, pooling), rtol=1e-3, atol=1e-4)


def test_decoders_embed_by_their_last_token(family_folder, load):
    for family in FAMILIES:
        folder = family_folder(family)
        backend = load(folder)
        texts = random_texts(3, 20)
        assert backend.capabilities.generates
        assert backend.capabilities.embedding.pooling is Pooling.LAST
        for seq, text in enumerate(texts):
            assert backend.reserve(seq, len(text))
        for vector, text in zip(backend.embed(texts_step(texts)), texts, strict=True):
            want = by_transformers(folder, text, Pooling.LAST)
            np.testing.assert_allclose(vector, want, rtol=2e-3, atol=2e-4, err_msg=family)


def test_a_masked_language_model_embeds_without_its_head(tmp_path, load_encoder):
    torch.manual_seed(1)
    folder = tmp_path / "model"
    transformers.logging.disable_progress_bar()
    transformers.BertForMaskedLM(ENCODERS["bert"]()).save_pretrained(folder)
    transformers.logging.enable_progress_bar()
    backend = load_encoder(folder)
    [text] = random_texts(6)
    [vector] = backend.embed(texts_step([text]))
    want = by_transformers(folder, text, Pooling.MEAN)
    np.testing.assert_allclose(vector, want, rtol=1e-3, atol=1e-4)


def test_each_folder_has_one_backend(tmp_path):
    encoder = files_of(make_encoder(tmp_path / "encoder", ENCODERS["bert"]()))
    decoder = files_of(make_model(tmp_path / "decoder", FAMILIES["llama"]()))
    assert encoder_plugin.accepts(encoder).accepted and not plugin.accepts(encoder).accepted
    assert plugin.accepts(decoder).accepted and not encoder_plugin.accepts(decoder).accepted
    assert "torch-encoder" in plugin.accepts(encoder).reason
    # one that generates stays with the other, though its folder speaks of pooling
    with_pooling(decoder.path, pooling_mode_lasttoken=True)
    assert plugin.accepts(decoder).accepted


def test_the_wrong_backend_names_the_right_one(tmp_path, load):
    folder = make_encoder(tmp_path / "model", ENCODERS["bert"]())
    with pytest.raises(UnsupportedModel, match="torch-encoder"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "longest"), [("bert", 256), ("xlm-roberta", 254), ("modernbert", 256)]
)
def test_the_longest_text_is_what_the_positions_allow(tmp_path, load_encoder, name, longest):
    folder = make_encoder(tmp_path / "model", ENCODERS[name]())
    backend = load_encoder(folder)
    assert backend.capabilities.max_sequence_tokens == longest
    assert np.isfinite(backend.embed(texts_step(random_texts(longest)))).all()
    with pytest.raises(Unsupported):
        backend.embed(texts_step(random_texts(longest + 1)))
    with pytest.raises(UsageError, match="max-total-tokens"):
        load_encoder(folder, max_sequence_tokens=longest + 1)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    assert load_encoder(folder).capabilities.max_sequence_tokens == 40
    assert load_encoder(folder, max_sequence_tokens=50).capabilities.max_sequence_tokens == 50
    assert load_encoder(folder, max_step_tokens=20).capabilities.max_sequence_tokens == 20


def test_what_stands_behind_the_pooling_is_refused_by_name(tmp_path, load, load_encoder):
    encoder = make_encoder(tmp_path / "encoder", ENCODERS["bert"]())
    decoder = make_model(tmp_path / "decoder", FAMILIES["llama"]())
    for folder in (encoder, decoder):
        with_pooling(folder, pooling_mode_mean_tokens=True)
        dense = [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
        (folder / "modules.json").write_text(json.dumps(dense))
    with pytest.raises(UnsupportedModel, match="Dense"):
        load_encoder(encoder)
    # this one can at least generate
    assert load(decoder).capabilities.embedding is None


@pytest.mark.parametrize("modes", [{"pooling_mode_max_tokens": True}, {}, {"pooling_mode": "max"}])
def test_another_pooling_is_refused_by_name(tmp_path, load_encoder, modes):
    folder = make_encoder(tmp_path / "model", ENCODERS["bert"]())
    with pytest.raises(UnsupportedModel, match="pooling"):
        load_encoder(with_pooling(folder, **modes))


@pytest.mark.parametrize("content", ["{", "3", "[1"])
def test_damaged_files_are_named(tmp_path, load_encoder, content):
    folder = make_encoder(tmp_path / "model", ENCODERS["bert"]())
    (folder / "modules.json").write_text(content)
    with pytest.raises(BadModel, match=r"modules\.json"):
        load_encoder(folder)


def test_an_encoder_generates_nothing(tmp_path, load_encoder):
    backend = load_encoder(make_encoder(tmp_path / "model", ENCODERS["bert"]()))
    with pytest.raises(Unsupported, match="only embeds"):
        backend.step(texts_step(random_texts(3)))


class TestEncoder(BackendConformance):
    module = "tgi_backend_torch.encoder_plugin"
    folder: Path

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        cls.folder = make_encoder(tmp_path_factory.mktemp("model"), ENCODERS["bert"]())
        return LoadRequest(
            model=files_of(cls.folder),
            dtype=DType.FLOAT32,
            max_rows=8,
            max_sequence_tokens=128,
            max_step_tokens=128,
            num_threads=1,
        )

    def reference_embedding(self, tokens: Sequence[int]) -> np.ndarray:
        return by_transformers(self.folder, tokens, Pooling.MEAN)
