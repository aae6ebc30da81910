"""Opens a GGUF file and makes a context, turning llama.cpp's complaints into our errors.

Knows which models the contract can be kept for; does not know steps or cells.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tgi_backend_llamacpp.gguf import GgufHeader
from tgi_backend_llamacpp.llama_log import llama_log
from tgi_backend_llamacpp.options import FlashAttention, Options
from tgi_backend_llamacpp.sizes import Sizes
from tgi_core.contract import Progress
from tgi_core.errors import BadModel, DoesNotFit, SetupError, UnsupportedModel

_UNSUPPORTED_WORDS = ("unknown model architecture", "unknown pre-tokenizer", "unknown tokenizer")
_MEMORY_WORDS = ("unable to allocate", "failed to allocate", "out of memory")


def open_model(
    path: Path, stack: ExitStack, progress: Progress, *, n_gpu_layers: int, extra_buffers: bool
) -> llama.llama_model_p:
    """Loads the weights; `stack` frees them.

    Raises:
        UnsupportedModel: this llama.cpp does not know the architecture.
        DoesNotFit: the memory does not hold the weights.
        BadModel: anything else that llama.cpp says against the file.
    """
    total = float(path.stat().st_size)
    raised: list[BaseException] = []

    def report(done: float, user_data: object) -> bool:
        try:
            progress("loading weights", done * total, total, "bytes")
        except BaseException as error:  # ctypes would print it and go on
            raised.append(error)
            return False
        return True

    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = n_gpu_layers
    parameters.use_extra_bufts = extra_buffers
    parameters.progress_callback = llama.llama_progress_callback(report)
    llama.llama_backend_init()
    llama_log().forget()
    model: llama.llama_model_p | None
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    if raised:
        if model:
            llama.llama_model_free(model)
        raise raised[0]
    if not model:
        raise refusal(path)
    stack.callback(llama.llama_model_free, model)
    return model


def check_model(path: Path, model: llama.llama_model_p, header: GgufHeader) -> None:
    """Refuses models whose sequences cannot be cut or forked at any length, or have no logits.

    Raises:
        UnsupportedModel: with the reason.
    """
    architecture = header.text("general.architecture")
    reason = ""
    if llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model):
        reason = "it keeps a recurrent state, which cannot be cut or shared at any length"
    elif llama.llama_model_has_encoder(model) or not llama.llama_model_has_decoder(model):
        reason = "it has an encoder, and only decoders can be served"
    elif header.metadata.get(f"{architecture}.attention.causal") is False:
        reason = "its attention is not causal: it makes embeddings or is a diffusion model"
    elif header.number(f"{architecture}.pooling_type", 0) > 0:
        reason = "it is an embedding or ranking model"
    elif llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)) < 1:
        reason = "it has no vocabulary"
    if reason:
        raise UnsupportedModel(f"llamacpp cannot serve {path} ({architecture}): {reason}.")


def open_context(
    model: llama.llama_model_p, stack: ExitStack, sizes: Sizes, options: Options, *, n_batch: int
) -> llama.llama_context_p:
    """Makes the cache and the compute buffers; `stack` frees them.

    Raises:
        DoesNotFit: llama.cpp could not make a context of these sizes and options.
    """
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = sizes.cache_tokens
    parameters.n_seq_max = sizes.num_streams or llama.llama_max_parallel_sequences()
    parameters.kv_unified = not sizes.num_streams
    # llama.cpp aborts where a batch could not hold one token of each sequence
    parameters.n_batch = max(n_batch, parameters.n_seq_max)
    parameters.n_ubatch = min(options.n_ubatch, parameters.n_batch)
    parameters.n_outputs_max_per_seq = 0  # all of a sequence's logits may be wanted
    parameters.n_threads = parameters.n_threads_batch = options.num_threads
    parameters.type_k, parameters.type_v = options.type_k, options.type_v
    parameters.flash_attn_type = _flash_attention(options, sizes)
    parameters.swa_full = True  # else a sliding window forgets what truncate comes back to
    llama_log().forget()
    context: llama.llama_context_p | None
    context = llama.llama_init_from_model(model, parameters)
    if not context:
        raise DoesNotFit(
            f"llama.cpp made no context of {sizes.cache_tokens} tokens with type_k "
            f"{options.type_k.name.lower()} and type_v {options.type_v.name.lower()}: "
            f"{llama_log().complaints()}. Ask for fewer cache_tokens, or f16 and flash_attn auto."
        )
    stack.callback(llama.llama_free, context)
    return context


def _flash_attention(options: Options, sizes: Sizes) -> FlashAttention:
    """What is faster, if nobody chose: on a CPU it takes a quarter longer for decoding in streams.

    Measured on one core with AMX, SmolLM2 in bfloat16, contexts of 180 to 380 tokens: 211 ms a
    step of 16 rows without, 260 with it. In one pool of cells prompts come twice as fast with it,
    so there llama.cpp chooses.
    """
    is_open = options.flash_attn is FlashAttention.AUTO
    # llama.cpp has no other attention over quantized values
    if is_open and sizes.num_streams and not options.type_v.is_quantized:
        return FlashAttention.OFF
    return options.flash_attn


def refusal(path: Path) -> SetupError:
    """The error for a file that llama.cpp has just refused."""
    words = llama_log().complaints()
    lower = words.lower()
    if any(said in lower for said in _UNSUPPORTED_WORDS):
        return UnsupportedModel(
            f"This llama.cpp does not know {path}: {words}. A newer llama-cpp-python may."
        )
    if any(said in lower for said in _MEMORY_WORDS):
        return DoesNotFit(f"Memory does not hold the weights of {path}: {words}.")
    return BadModel(f"llama.cpp refuses {path}: {words}.")
