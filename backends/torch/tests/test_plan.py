"""What a plan says before any weight is read is what then is measured.

Reality is what torch's allocator was asked for while the backend ran the step that was planned.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tgi_backend_torch.padded import PaddedModel
from tgi_backend_torch.padded_rehearsal import largest_steps
from tgi_backend_torch.plan import plan_model
from tgi_backend_torch.plugin import tgi_backend
from tgi_backend_torch.rehearsal import largest_step
from tgi_backend_torch.runner import TorchBackend
from torch.profiler import ProfilerActivity, profile

from tests.families import ENCODING, FAMILIES, PADDED, RECURRENT, make_model, request_for
from tests.seeing import make_seeing
from tests.smollm2 import put_folder
from tgi_core.contract import Capabilities, DType, LoadRequest, MemoryPlan, Step
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

LARGER_PADDED = dict(
    hidden_size=128, d_model=128, n_embd=128, intermediate_size=256, d_ff=256, d_kv=32
)
HEADS = {
    "mamba2": dict(head_dim=32),
    "bamba": dict(mamba_d_head=32),
    "granitemoehybrid": dict(mamba_d_head=32),
}

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


PADDED_MODELS = [
    "t5",
    "mamba",
    "bloom",
    *(
        pytest.param(family, marks=pytest.mark.long)
        for family in (*PADDED, *RECURRENT, *ENCODING)
        if family not in ("t5", "mamba", "bloom")
    ),
]


@pytest.mark.parametrize("family", PADDED_MODELS)
def test_a_plan_of_a_model_that_runs_padded_is_no_worse(family, tmp_path):
    small = {**PADDED, **RECURRENT, **ENCODING}[family]()
    sizes = {name: size for name, size in LARGER_PADDED.items() if name in small.to_dict()}
    told = {k: v for k, v in small.to_dict().items() if k not in ("rope_parameters", "dtype")}
    more = {**told, **sizes, **HEADS.get(family, {})}
    folder = make_model(tmp_path / "model", type(small)(**more))
    check_padded(request_for(folder, cache_tokens=1024, max_sequence_tokens=256, max_rows=8))


@pytest.mark.parametrize(
    "family", ["t5", *(pytest.param(each, marks=pytest.mark.long) for each in ("bloom", "mamba"))]
)
def test_a_plan_of_one_rank_of_two_that_run_padded_is_no_worse(family, family_folder, ranks):
    folder = family_folder(family)
    plan = plan_model(request_for(folder, num_shards=2), 1 << 30)
    [rank, _] = ranks(folder, 2).ranks
    assert plan.weights_bytes == weights_of(rank)
    assert plan.cache_bytes == rank.stats().memory_bytes
    assert plan.step_bytes < plan_model(request_for(folder), 1 << 30).step_bytes


@pytest.mark.parametrize(("family", "chunked"), [("mamba", False), ("mamba2", True)])
def test_whether_prompts_can_be_cut_is_known_without_weights(family, chunked, family_folder):
    """A kernel that begins with nothing does not look at the states that it is given."""
    request = request_for(family_folder(family), max_sequence_tokens=700, max_step_tokens=100)
    assert (plan_model(request, 1 << 30).max_step_tokens == 100) is chunked


def test_a_prompt_whose_state_does_not_fit_is_planned_all_the_same(family_folder):
    plan = plan_model(request_for(family_folder("mamba"), cache_tokens=None), 1000)
    assert plan.missing_bytes == plan.total_bytes - 1000
    assert plan.max_rows == 1


def test_what_depends_on_numbers_is_refused_by_name(new_model):
    config = transformers.LEDConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        attention_window=20,
    )
    with pytest.raises(UnsupportedModel, match="LEDForConditionalGeneration cannot be planned"):
        plan_model(request_for(new_model(config)), 1 << 30)


@pytest.mark.parametrize("family", ["mllama", "idefics"])
def test_a_plan_of_a_model_that_takes_images_is_no_worse(family, tmp_path):
    """What is kept of images is in the cache."""
    folder = make_seeing(tmp_path / "model", family).folder
    check(request_for(folder, cache_tokens=2048, max_sequence_tokens=1024))


@pytest.mark.slow
def test_a_plan_of_a_real_model_is_within_5_percent_of_what_is_measured():
    folder = put_folder(Path(__file__).parents[3] / ".models" / "smollm2-135m-instruct")
    # oneDNN takes room of its own to multiply in bfloat16 with AMX: 8 MB of 600
    check(request_for(folder, cache_tokens=2048, dtype=None), of_step=0.25)


def check(request: LoadRequest, of_step: float = TOLERANCE) -> None:
    plan = plan_model(request, None)
    backend = TorchBackend()
    limits = backend.load(request, lambda *told: None)
    check_all_but_steps(plan, backend, limits)
    past, step = largest_step(limits)
    held = 0
    if past is not None:
        assert backend.reserve(0, past.num_tokens)
        held, _ = allocated(backend, past)
    assert backend.reserve(0, limits.max_sequence_tokens)
    _, most = allocated(backend, step)
    # what the last step left is in use when the next one begins
    check_step(plan, backend, held + most, of_step)
    backend.close()


def check_padded(request: LoadRequest, of_step: float = TOLERANCE) -> None:
    plan = plan_model(request, None)
    backend = TorchBackend()
    limits = backend.load(request, lambda *told: None)
    check_all_but_steps(plan, backend, limits)
    most = max(measured(backend, step) for step in largest_steps(limits))
    check_step(plan, backend, most, of_step)
    backend.close()


def measured(backend: TorchBackend, step: Step) -> int:
    """The most that a step has allocated at once, after others that compute what its rows hold."""
    for row, seq in enumerate(step.seq.tolist()):
        past = int(step.past[row])
        assert backend.reserve(seq, past + int(step.n[row]))
        if past:
            encoded = None if step.encoded is None else step.encoded[row : row + 1]
            backend.step(
                Step(
                    seq=step.seq[row : row + 1],
                    past=np.zeros(1, np.int32),
                    n=np.array([past], np.int32),
                    tokens=np.zeros(past, np.int32),
                    out=np.array([past - 1], np.int32),
                    encoded=encoded,
                )
            )
    _, most = allocated(backend, step)
    for seq in step.seq.tolist():
        backend.release(seq)
    return most


def check_all_but_steps(plan: MemoryPlan, backend: TorchBackend, limits: Capabilities) -> None:
    assert plan.cache_tokens == limits.cache_tokens
    assert plan.max_rows == limits.max_rows
    assert plan.max_sequence_tokens == limits.max_sequence_tokens
    assert plan.max_step_tokens == limits.max_step_tokens
    assert plan.weights_bytes == weights_of(backend)
    assert plan.cache_bytes == backend.stats().memory_bytes


def check_step(plan: MemoryPlan, backend: TorchBackend, most: int, of_step: float) -> None:
    assert plan.step_bytes == pytest.approx(most, rel=of_step)
    all_bytes = weights_of(backend) + backend.stats().memory_bytes + most
    assert plan.total_bytes == pytest.approx(all_bytes, rel=TOLERANCE)


def weights_of(backend: TorchBackend) -> int:
    """Bytes of all parameters and buffers, packed ones too, each storage once."""
    found: dict[object, int] = {}
    computing = backend._loaded.computing
    model = computing.model if isinstance(computing, PaddedModel) else computing._model.model
    for module in model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for tensor in tensors:
            if tensor.device.type != "meta":
                found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        packed = getattr(module, "packed", None)
        if packed is not None:
            found[id(packed)] = packed.numel() * packed.dtype.itemsize
            if module.bias is not None:
                storage = module.bias.untyped_storage()
                found[storage._cdata] = storage.nbytes()
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
    plan = plan_model(request_for(folder, dtype=DType.BFLOAT16, cache_tokens=None), 24 << 30)
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
