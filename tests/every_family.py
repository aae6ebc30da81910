"""Tiny models of every type of text model in transformers, and what becomes of them.

    python -m tests.every_family > tests/golden/families.json

It takes minutes, so the answers are kept; a test tries some of them anew, and docs/models.md shows
them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from tests.families import (
    ENCODING,
    FAMILIES,
    PADDED,
    RECURRENT,
    VOCAB,
    Driver,
    EncodingDriver,
    make_model,
    request_for,
)
from tgi_core.contract import AdapterRows, Fork
from tgi_core.errors import SetupError

_NEW_TOKENS = 8
_TINY: dict[str, Any] = {
    **dict.fromkeys(("vocab_size",), VOCAB),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "dff"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "rotary_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts",), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size"), 20),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
"""What configurations call their sizes, and tiny ones."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one type of model."""

    model_type: str
    architecture: str
    how: str
    """flat, padded, refused, or untried."""
    why: str = ""
    """Of the last two."""
    chunked: bool = False
    shares: str = ""
    """What a prompt may reuse of others: anywhere, whole, prompt or nothing."""
    adapters: bool = False
    embeds: bool = False
    ranks: bool = False
    """Whether two ranks share it."""


def known_types() -> dict[str, tuple[type[PretrainedConfig], str]]:
    """Configuration and architecture of every type of text model, by name."""
    found = {}
    # of those that are in both, the one with an encoder is what the folders are of
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING):
        for config, model in mapping.items():
            model = model[0] if isinstance(model, tuple) else model
            found[config.model_type] = (config, model.__name__)
    return dict(sorted(found.items()))


def tiny_config(config: type[PretrainedConfig]) -> PretrainedConfig:
    """A tiny configuration; raises whatever the class does if it cannot be made so."""
    by_hand = {make().model_type: make for make in _made_by_hand()}
    if config.model_type in by_hand:
        return by_hand[config.model_type]()
    whole = config()
    if whole.sub_configs:
        raise ValueError("it is made of several models")
    names = whole.to_dict()
    sizes = {name: value for name, value in _TINY.items() if name in names}
    if getattr(whole, "sliding_window", 0) is None:
        sizes.pop("sliding_window", None)
    if "kv_lora_rank" in sizes and "num_key_value_heads" in sizes:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    kinds = list(dict.fromkeys(getattr(whole, "layer_types", None) or ()))
    if kinds:
        for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
            if name in sizes:
                sizes[name] = max(2, len(kinds))
        sizes["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
    return config(**sizes)


def _made_by_hand() -> Iterator[Callable[[], PretrainedConfig]]:
    # the last of a type stays: the plainest comes first in each
    for families in (ENCODING, RECURRENT, PADDED, FAMILIES):
        yield from reversed(families.values())


def outcome_of(model_type: str, folder: Path) -> Outcome:
    """Makes a tiny model, loads it, and generates with it and with transformers."""
    from tgi_backend_torch.padded import PaddedModel
    from tgi_backend_torch.runner import TorchBackend

    config_class, architecture = known_types()[model_type]
    try:
        make_model(folder, tiny_config(config_class))
    except Exception as error:  # any class may ask for anything
        why = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome(model_type, architecture, "untried", f"{why[0]:.120}")
    backend = TorchBackend()
    try:
        capabilities = backend.load(
            request_for(folder, max_rows=4, max_sequence_tokens=96), lambda *_: None
        )
    except SetupError as error:
        return Outcome(model_type, architecture, "refused", str(error))
    backend.capabilities = capabilities
    try:
        fault = _greedy_fault(backend, folder, encodes=capabilities.encoder is not None)
        if fault:
            return Outcome(model_type, architecture, "wrong", fault)
        is_flat = not isinstance(backend._loaded.computing, PaddedModel)
    finally:
        backend.close()
    fault = _shared_fault(folder, encodes=capabilities.encoder is not None)
    if fault:
        return Outcome(model_type, architecture, "wrong", f"two ranks: {fault}")
    shares = {Fork.ANY: "anywhere", Fork.NONE: "whole"}[capabilities.fork]
    if not capabilities.chunked:
        shares = "nothing"
    if capabilities.encoder is not None:
        shares = "prompt"
    return Outcome(
        model_type,
        architecture,
        "flat" if is_flat else "padded",
        chunked=capabilities.chunked and capabilities.encoder is None,
        shares=shares,
        adapters=capabilities.adapters is not AdapterRows.NONE,
        embeds=capabilities.embedding is not None,
        ranks=fault is not None,
    )


def _shared_fault(folder: Path, *, encodes: bool) -> str | None:
    """As `_greedy_fault`, of two ranks; None if they cannot share it."""
    from tgi_backend_torch.loader import model_class, read_config
    from tgi_backend_torch.shards import check_shards

    from tests.thread_ranks import ThreadRanks

    config = read_config(folder)
    try:
        check_shards(model_class(config), config, 2)
        ranks = ThreadRanks(folder, 2, folder.parent, max_rows=4, max_sequence_tokens=96)
    except SetupError:
        return None
    try:
        return _greedy_fault(ranks, folder, encodes=encodes)
    finally:
        ranks.close()


def _greedy_fault(backend: Any, folder: Path, *, encodes: bool) -> str:
    """Where greedy tokens of three rows at once differ from `generate`'s; "" if nowhere."""
    rng = np.random.default_rng(5)
    prompts = {seq: rng.integers(3, VOCAB, n).tolist() for seq, n in enumerate((21, 4, 13))}
    start = list(backend.capabilities.encoder.start) if encodes else []
    driver: Any = (EncodingDriver if encodes else Driver)(backend, folder)
    rows = {seq: start for seq in prompts} if encodes else prompts
    tokens = {seq: [] for seq in prompts}
    logits = driver.step(rows, prompts) if encodes else driver.step(rows)
    for _ in range(_NEW_TOKENS):
        for seq, some in logits.items():
            tokens[seq].append(int(some[-1].argmax()))
        logits = driver.step({seq: some[-1:] for seq, some in tokens.items()})
    own = driver.reference.generation_config
    own.eos_token_id = own.forced_eos_token_id = None  # random models end at random
    greedy = GenerationConfig(
        max_new_tokens=_NEW_TOKENS + max(0, len(start) - 1),
        do_sample=False,
        pad_token_id=0,
        decoder_start_token_id=start[0] if start else None,
        forced_bos_token_id=own.forced_bos_token_id,
    )
    for seq, prompt in prompts.items():
        ids = torch.tensor([prompt])
        whole = driver.reference.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=greedy
        )[0, len(start) if encodes else len(prompt) :].tolist()
        if tokens[seq] != whole:
            return f"{tokens[seq]} instead of {whole}"
    return ""


def main() -> None:
    """Tries all types, or those named, and prints what became of them."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    outcomes = []
    for model_type in sys.argv[1:] or known_types():
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = outcome_of(model_type, Path(folder) / "model")
            except Exception as error:
                why = f"transformers itself does not run it: {error!r:.200}"
                outcome = Outcome(model_type, known_types()[model_type][1], "untried", why)
        print(outcome, file=sys.stderr)
        outcomes.append(
            {
                name: value
                for name, value in dataclasses.asdict(outcome).items()
                if value not in ("", False)
            }
        )
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    print(json.dumps({"versions": versions, "types": outcomes}, indent=1))


if __name__ == "__main__":
    main()
