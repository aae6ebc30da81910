"""Formats of quantized checkpoints: what config.json says of each, and what writes its tensors."""

from functools import partial

import torch
from tgi_backend_torch.quant.codebook import FP4, NF4

from tests import quantized

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
MARLIN = {"quant_method": "marlin", "group_size": 64}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def compressed(form: str = "pack-quantized", **weights):
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def table(numbers):
    return torch.tensor(numbers)


FORMATS = {
    "gptq": (GPTQ, partial(quantized.gptq, bits=4, size=32)),
    "gptq, 8 bits, all in one group": (
        {**GPTQ, "bits": 8, "group_size": -1},
        partial(quantized.gptq, bits=8, size=1000),
    ),
    "gptq, 3 bits": ({**GPTQ, "bits": 3}, partial(quantized.gptq, bits=3, size=32)),
    "gptq, 2 bits": ({**GPTQ, "bits": 2}, partial(quantized.gptq, bits=2, size=32)),
    "gptq, in order of activations": (
        {**GPTQ, "desc_act": True},
        partial(quantized.gptq, bits=4, size=32, order=True),
    ),
    "gptq, a shorter last group": (
        {**GPTQ, "group_size": 80},
        partial(quantized.gptq, bits=4, size=80),
    ),
    "gptq, second version": (
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        partial(quantized.gptq, bits=4, size=32, less=0),
    ),
    "marlin": (MARLIN, partial(quantized.marlin, size=64)),
    "marlin, one group, in AutoGPTQ's words": (
        {**GPTQ, "group_size": -1, "checkpoint_format": "marlin"},
        partial(quantized.marlin, size=-1),
    ),
    "awq": (AWQ, partial(quantized.awq, size=32)),
    "awq, in AutoAWQ's words": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"},
        partial(quantized.awq, size=64),
    ),
    "fp8, squares": (
        {**FP8, "weight_block_size": [48, 64]},
        partial(quantized.fp8, block=(48, 64)),
    ),
    "fp8, a scale an output": (FP8, partial(quantized.fp8, block=None)),
    "fp8, one scale": (FP8, partial(quantized.fp8, block=None, whole=True)),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        partial(quantized.int8, divide=127, scale="SCB"),
    ),
    "bitsandbytes, nf4": (
        BNB,
        partial(quantized.four_bit_table, kind="nf4", table=table(NF4), nested=False),
    ),
    "bitsandbytes, fp4, quantized twice": (
        BNB,
        partial(quantized.four_bit_table, kind="fp4", table=table(FP4), nested=True),
    ),
    "compressed-tensors": (
        compressed(strategy="group", group_size=32),
        partial(quantized.compressed_ints, bits=4, size=32, symmetric=True),
    ),
    "compressed-tensors, 8 bits, zero points": (
        compressed(num_bits=8, symmetric=False, strategy="group", group_size=64),
        partial(quantized.compressed_ints, bits=8, size=64, symmetric=False),
    ),
    "compressed-tensors, in order of activations": (
        compressed(symmetric=False, strategy="group", group_size=32, actorder="group"),
        partial(quantized.compressed_ints, bits=4, size=32, symmetric=False, order=True),
    ),
    "compressed-tensors, int8": (
        compressed("int-quantized", num_bits=8, strategy="channel"),
        partial(quantized.int8, divide=1, scale="weight_scale"),
    ),
    "compressed-tensors, fp8": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        partial(quantized.fp8, block=None),
    ),
}
