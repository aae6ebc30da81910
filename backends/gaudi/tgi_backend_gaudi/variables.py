"""TGI's environment variables for Gaudi: which options they set, or why they do nothing."""

from __future__ import annotations

OPTIONS = {"QUANT_CONFIG": "quant_config", "ENABLE_HPU_GRAPH": "graphs"}

_POWERS_OF_TWO = (
    "steps are padded to powers of two up to the limits; --max-batch-size, --max-step-tokens and "
    "--max-total-tokens say how many shapes are compiled"
)
_FREE_MEMORY = "the cache is sized by what memory the backend finds; --cache-tokens sets it"
_ATTENTION = "--backend-option fused=all says whether Habana's kernel computes attention"
_BUCKETS = [
    "BATCH_BUCKET_SIZE",
    "PREFILL_BATCH_BUCKET_SIZE",
    "PAD_SEQUENCE_TO_MULTIPLE_OF",
    *(
        f"VLLM_{what}_BUCKET_{end}"
        for what in ("PROMPT_BS", "PROMPT_SEQ", "DECODE_BS", "DECODE_BLOCK")
        for end in ("MIN", "STEP", "MAX")
    ),
]
IDLE = {
    **dict.fromkeys(_BUCKETS, _POWERS_OF_TWO),
    "FLASH_ATTENTION_RECOMPUTE": _ATTENTION,
    "SDP_ON_BF16": _ATTENTION,
    "VLLM_CONTIGUOUS_PA": _ATTENTION,
    "LIMIT_HPU_GRAPH": "prompts have graphs too; --backend-option graphs=off records none at all",
    "VLLM_GRAPH_PROMPT_RATIO": "each shape has a graph, or the server says what does not fit",
    "WARMUP_ENABLED": "each shape is compiled before requests come, for else they would wait",
    "VLLM_SKIP_WARMUP": "each shape is compiled before requests come, for else they would wait",
    "HPU_MEMORY_FRACTION": _FREE_MEMORY,
    "TGI_GRAPH_RESERVED_MEM": _FREE_MEMORY,
    "SKIP_TOKENIZER_IN_TGI": "texts are made into tokens once, outside the engine",
    "QUEUE_THRESHOLD_MS": "prompts run between the steps of decoding",
    "USE_EXPERT_PARALLEL": "each of several Gaudis has a part of every expert",
    "TEXT_GENERATION_SERVER_IGNORE_EOS_TOKEN": "a sequence ends where the model ends it",
    "TGI_PROFILER_ENABLED": "--otlp-endpoint sends traces",
}
