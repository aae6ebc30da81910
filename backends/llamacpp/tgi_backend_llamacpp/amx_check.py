"""Decodes a few tokens with a small quantized model and exits with 0: run as a child process.

On some builds this dies by a signal, which is what the parent wants to know (see `amx`).
Usage: python -m tgi_backend_llamacpp.amx_check MODEL.gguf [--no-extra-buffers]
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp.llama_cpp as llama


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 if the model loaded and every decode worked."""
    path, *flags = arguments
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_extra_bufts = "--no-extra-buffers" not in flags
    model = llama.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return 1
    sizes = llama.llama_context_default_params()
    sizes.n_ctx = sizes.n_batch = sizes.n_ubatch = 256
    context = llama.llama_init_from_model(model, sizes)
    if not context:
        return 1
    # many tokens and a single one take different kernels
    for count in (64, 1):
        tokens = (llama.llama_token * count)(*range(3, 3 + count))
        pointer = ctypes.cast(tokens, ctypes.POINTER(llama.llama_token))
        if llama.llama_decode(context, llama.llama_batch_get_one(pointer, count)):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
