"""Finds out whether TensorRT-LLM can be used here. Loads no model."""

from __future__ import annotations

from importlib.util import find_spec

from tgi_core.contract import Probe


def probe_trtllm() -> Probe:
    """Imports the library and asks for GPUs. Never raises."""
    if find_spec("tensorrt_llm") is None:
        return _missing(
            "tensorrt_llm is not installed: use the image "
            "nvcr.io/nvidia/tensorrt-llm/release:1.2.1, "
            'or pip install "tgi-backend-trtllm[vendor]" --extra-index-url https://pypi.nvidia.com.'
        )
    try:
        from tgi_backend_trtllm import vendor

        release = vendor.version()
        num_gpus = vendor.num_gpus()
    except Exception as error:  # a broken installation can raise anything at import
        return _missing(
            f"tensorrt_llm cannot be imported ({error}): its CUDA, MPI and torch must be those "
            "that it was built for, as in NVIDIA's image."
        )
    if not vendor.is_known(release):
        return _missing(
            f"tensorrt_llm {release} is none that this backend was written for: install 1.2 or 1.3."
        )
    if not num_gpus:
        return _missing(
            "TensorRT-LLM finds no GPU: see whether nvidia-smi does, and in a container whether it "
            "was started with --gpus all --ipc=host."
        )
    return Probe(
        available=True,
        devices=tuple(f"cuda:{index}" for index in range(num_gpus)),
        notes=(f"TensorRT-LLM {release}",),
    )


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
