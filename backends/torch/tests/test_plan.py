"""What a plan says before any weight is read is what then is measured.

Reality is what torch's allocator was asked for while the backend ran the step that was planned.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch.plan import largest_step, plan_model
from tgi_backend_torch.plugin import tgi_backend
from tgi_backend_torch.runner import TorchBackend
from torch.profiler import ProfilerActivity, profile

from tests.families import FAMILIES, make_model, request_for
from tests.seeing import make_seeing
from tests.smollm2 import put_folder
from tgi_core.contract import DType, LoadRequest
from tgi_core.errors import UnsupportedModel, UsageError

TOLERANCE = 0.05
LARGER = dict(
    hidden_size=256,
    n_embd=256,
    intermediate_size=704,
    ffn_dim=704,
    word_embed_proj_dim=256,
    vocab_size=4000,
    max_position_embeddings=2048,
)
"""Large enough for what a step takes to be no trifle."""

MODELS = [
    ("llama", DType.FLOAT32),
    ("llama, tied", DType.BFLOAT16),
    ("mistral, sliding", DType.FLOAT32),
    ("gemma2", DType.FLOAT32),
    ("gpt2", DType.FLOAT32),
    ("gpt_neox", DType.FLOAT32),
    ("qwen3_moe", DType.FLOAT32),
    ("mixtral", DType.BFLOAT16),
    ("gpt_oss", DType.FLOAT32),
    ("deepseek_v3", DType.FLOAT32),
]


@pytest.mark.parametrize(("family", "dtype"), MODELS, ids=str)
def test_a_plan_is_within_5_percent_of_what_is_measured(family, dtype, tmp_path):
    small = FAMILIES[family]()
    sizes = {name: size for name, size in LARGER.items() if hasattr(small, name)}
    if getattr(small, "head_dim", None) and family != "deepseek_v3":
        sizes["head_dim"] = 64
    told = {k: v for k, v in small.to_dict().items() if k not in ("rope_parameters", "dtype")}
    folder = make_model(tmp_path / "model", type(small)(**{**told, **sizes}))
    check(request_for(folder, cache_tokens=2048, dtype=dtype))


@pytest.mark.parametrize("family", ["mllama", "idefics"])
def test_a_plan_of_a_model_that_takes_images_is_no_worse(family, tmp_path):
    """What is kept of images is in the cache."""
    folder = make_seeing(tmp_path / "model", family).folder
    check(request_for(folder, cache_tokens=2048, max_sequence_tokens=1024))


@pytest.mark.slow
def test_a_plan_of_a_real_model_is_within_5_percent_of_what_is_measured():
    folder = put_folder(Path(__file__).parents[3] / ".models" / "smollm2-135m-instruct")
    # oneDNN takes room of its own to multiply in bfloat16 with AMX: 8 MB of 600
    check(request_for(folder, cache_tokens=8192, dtype=None), of_step=0.25)


def check(request: LoadRequest, of_step: float = TOLERANCE) -> None:
    plan = plan_model(request, None)
    backend = TorchBackend()
    limits = backend.load(request, lambda *told: None)
    assert plan.cache_tokens == limits.cache_tokens
    assert plan.max_sequence_tokens == limits.max_sequence_tokens
    assert plan.weights_bytes == weights_of(backend)
    assert plan.cache_bytes == backend.stats().memory_bytes
    past, step = largest_step(limits)
    held = 0
    if past is not None:
        assert backend.reserve(0, past.num_tokens)
        held, _ = allocated(backend, past)
    assert backend.reserve(0, limits.max_sequence_tokens)
    _, most = allocated(backend, step)
    # what the last step left is in use when the next one begins
    assert plan.step_bytes == pytest.approx(held + most, rel=of_step)
    measured = weights_of(backend) + backend.stats().memory_bytes + held + most
    assert plan.total_bytes == pytest.approx(measured, rel=TOLERANCE)
    backend.close()


def weights_of(backend: TorchBackend) -> int:
    """Bytes of all parameters and buffers, packed ones too, each storage once."""
    found: dict[object, int] = {}
    for module in backend._loaded.computing._model.model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for tensor in tensors:
            if tensor.device.type != "meta":
                found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        packed = getattr(module, "packed", None)
        if packed is not None:
            found[id(packed)] = packed.numel() * packed.dtype.itemsize
            if module.bias is not None:
                found[module.bias.untyped_storage()._cdata] = module.bias.nbytes
    return sum(found.values())


def allocated(backend: TorchBackend, step) -> tuple[int, int]:
    """What a step leaves allocated, and the most that it had at once, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        backend.step(step)
    events = [e for e in told.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    running = np.cumsum(sizes)
    return int(running[-1]), max(0, int(running.max()))


def test_no_weight_is_read_and_next_to_no_memory_is_taken(tmp_path):
    """7 billion numbers in a file that holds its head only."""
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    config = transformers.LlamaConfig()
    config.save_pretrained(folder)
    save_file(
        {"model.norm.weight": torch.ones(4096, dtype=torch.bfloat16)}, folder / "model.safetensors"
    )
    plan = plan_model(request_for(folder, dtype=None, cache_tokens=None), 24 << 30)
    numbers = 6_738_415_616
    assert plan.weights_bytes == pytest.approx(2 * numbers, rel=0.001)
    assert plan.cell_bytes == 2 * 2 * 32 * 4096
    assert not plan.missing_bytes


def test_what_does_not_fit_is_planned_all_the_same_with_what_takes_less(family_folder):
    request = request_for(family_folder("llama"), dtype=None, cache_tokens=None)
    plan = plan_model(request, 1000)
    assert plan.missing_bytes == plan.total_bytes - 1000
    assert plan.cheaper == (replace(request, dtype=DType.BFLOAT16),)
    smaller = plan_model(plan.cheaper[0], 1000)
    assert smaller.total_bytes < plan.total_bytes
    assert smaller.cheaper == ()


def test_what_could_not_be_loaded_cannot_be_planned(family_folder, new_model, tmp_path):
    with pytest.raises(UsageError, match="made for at most 256"):
        plan_model(request_for(family_folder("llama"), max_sequence_tokens=1000), None)
    with pytest.raises(UnsupportedModel, match="float16"):
        plan_model(request_for(family_folder("llama"), dtype=DType.FLOAT16), None)


def test_the_spec_has_the_planner(family_folder):
    plan = tgi_backend().plan
    assert plan is not None
    assert plan(request_for(family_folder("llama")), 1 << 30).device == "cpu"
