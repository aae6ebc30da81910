"""Tiny real tokenizers: one of bytes, one in the manner of SentencePiece."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tgi_core.text.tokenizer import HFTokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def make_byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: token for token, char in enumerate(alphabet)}
    # a merge that ends in the middle of a character: the last byte of one, the first of the next
    vocab["¶ð"] = len(vocab)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("¶", "ð")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name) for name in ("<s>", "</s>", "<|end|>")])
    tokenizer.add_tokens([AddedToken("a b\u4e2d", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def make_sentencepiece() -> tokenizers.Tokenizer:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for word in ("\u2581", "h", "i", "\u2581h", "\u2581hi", "\u00e9", "\u2581you"):
        vocab[word] = len(vocab)
    merges = [("\u2581", "h"), ("\u2581h", "i")]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name) for name in ("<unk>", "<s>", "</s>")])
    return tokenizer


@pytest.fixture(scope="session")
def byte_level() -> HFTokenizer:
    raw = make_byte_level()
    return HFTokenizer(
        raw,
        eos_token_ids=(raw.token_to_id("</s>"),),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def sentencepiece() -> HFTokenizer:
    return HFTokenizer(make_sentencepiece(), eos_token_ids=(2,))


@pytest.fixture
def model_folder(tmp_path):
    make_byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path
