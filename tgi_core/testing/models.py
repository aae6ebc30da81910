"""Writes a tiny model folder for tests: tokenizer, chat template and configuration, no weights.

Enough for the fake backend and for all that works on text. Knows nothing of torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, TURN, END_OF_TURN = SPECIAL_TOKENS = ("<s>", "</s>", "<|turn|>", "<|end|>")
"""Ids 0 to 3. EOS and END_OF_TURN end a sequence."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|turn|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\\n' }}{% endif %}"""

_TEXT = """\
The small model reads a text token by token and guesses which one comes next. It was never taught
anything, so its guesses are noise; but the words that it knows are real ones, and each of them
can be written down, taken apart and put together again. What is the weather like in Paris today?
Tell me a story about a fox, a river and the moon. Once upon a time there was a fox who lived by
the river; every night she looked at the moon and thought that it was made of cheese. One, two,
three, four, five, six, seven, eight, nine, ten. {"name": "value", "numbers": [1, 2, 3]}
def main(): return sum(range(10)) # and some code. Größe, façade, naïve, señor, 你好, Привет.
"""


def write_fake_model(path: Path, vocab_size: int = 512) -> Path:
    """Writes a model folder that everything but a real device can serve.

    Args:
        path: the folder; made if it is missing.
        vocab_size: tokens in all, 260 to about 540; 256 of them are the bytes.

    Returns:
        `path`.

    Raises:
        ValueError: `vocab_size` does not fit the bytes, or the text that the words come from.
    """
    tokenizer = _train(vocab_size)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    bos, eos, _, end_of_turn = range(len(SPECIAL_TOKENS))
    for name, content in {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "torch_dtype": "float32",
        },
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": [eos, end_of_turn]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        },
    }.items():
        (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def write_fake_adapter(path: Path, seed: int) -> Path:
    """Writes an adapter for the fake backend, another one for each seed.

    Returns:
        `path`.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "FAKE", "seed": seed}))
    return path


def _train(vocab_size: int) -> Tokenizer:
    """Byte-level BPE over the built-in text: the same in every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the built-in text makes {tokenizer.get_vocab_size()} tokens, not {vocab_size}"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    return tokenizer
