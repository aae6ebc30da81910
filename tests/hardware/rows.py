"""What was seen of each backend beyond the conformance kit, and the tests that saw it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Seen(Enum):
    """Where something was seen to work; better evidence comes first."""

    DEVICE = "device"
    SIMULATOR = "simulator"
    """On whatever stands in for the device: a double of the vendor's runtime, an interpreter."""
    NOWHERE = "not verified"
    """It is written, and a test waits for the device."""
    UNTRIED = ""
    """It is not offered, or nothing tells."""


@dataclass(frozen=True, slots=True)
class Row:
    """A feature of one backend."""

    feature: str
    backend: str
    seen: Seen
    test: str
    """The path of a file from the root, "::" and the name of a test in it."""


REAL_MODEL = "A real model's greedy tokens equal the reference's"
SHARDS = "Ranks share a model"
NCCL = "Ranks exchange results by the maker's library"
SHARED_CHECKPOINTS = "Ranks share a quantized model"
SHARED_ADAPTERS = "Ranks share adapters"
SHARED_IMAGES = "Ranks look at images"
QUANTIZED = "Weights in int8 and int4"
CHECKPOINTS = "Checkpoints of GPTQ, AWQ, Marlin, FP8, bitsandbytes and compressed-tensors"
FEW_BITS = "Kernels for weights in few bits"
MARLIN = "Marlin's kernels for weights in few bits"
FP8 = "Weights and activations in fp8, measured before"
HALF = "bfloat16"
CACHE = "KV cache in fp8"
HEADS = "Medusa heads"
GRAPHS = "Steps replay captured or compiled graphs"
MIXED = "500 mixed requests, nothing compiled after warm-up"
MIXED_TOKENS = "500 mixed requests give the tokens that the CPU gives"
EXPERTS = "Mixtures of experts in compiled shapes"
AHEAD = "Models converted or compiled ahead of time"
VENDOR = "The vendor's own model code"
IMAGES = "Images"
ROWS = (
    Row(REAL_MODEL, "torch", Seen.DEVICE, "tests/e2e/test_greedy_equality.py::test_alone"),
    Row(REAL_MODEL, "openvino", Seen.DEVICE, "tests/e2e/test_greedy_equality.py::test_alone"),
    Row(REAL_MODEL, "llamacpp", Seen.DEVICE, "tests/e2e/test_llamacpp_equality.py::test_alone"),
    Row(
        REAL_MODEL,
        "cuda",
        Seen.NOWHERE,
        "backends/cuda/tests/test_on_gpu.py"
        "::test_the_real_models_greedy_tokens_are_those_of_generate",
    ),
    Row(
        REAL_MODEL,
        "gaudi",
        Seen.SIMULATOR,
        "tests/e2e/test_simulated_devices.py::test_gaudi_records_its_graphs_and_serves",
    ),
    Row(
        REAL_MODEL,
        "xla",
        Seen.DEVICE,
        "tests/e2e/test_xla.py::test_xla_compiles_and_serves",
    ),
    Row(
        REAL_MODEL,
        "neuron",
        Seen.SIMULATOR,
        "tests/e2e/test_simulated_devices.py::test_neuron_compiles_a_model_and_serves_it",
    ),
    Row(
        REAL_MODEL,
        "trtllm",
        Seen.SIMULATOR,
        "backends/trtllm/tests/test_server.py::test_greedy_text_is_that_of_transformers",
    ),
    Row(
        REAL_MODEL,
        "xpu",
        Seen.SIMULATOR,
        "tests/e2e/test_simulated_devices.py::test_xpu_serves_with_a_cpu_in_the_gpus_place",
    ),
    Row(
        IMAGES,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_images.py::test_tokens_are_those_of_generate_in_any_batch",
    ),
    Row(
        IMAGES,
        "cuda",
        Seen.DEVICE,
        "backends/cuda/tests/test_on_gpu.py::test_tokens_after_images_are_those_of_generate",
    ),
    Row(
        IMAGES,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_images.py"
        "::test_images_give_what_the_cpu_gives_and_compile_nothing_in_steps",
    ),
    Row(
        IMAGES,
        "xla",
        Seen.DEVICE,
        "backends/xla/tests/test_engine.py"
        "::test_images_give_what_the_cpu_gives_and_compile_nothing_when_they_are_known",
    ),
    Row(
        SHARDS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_shards.py::test_two_ranks_compute_what_one_does_in_any_batch",
    ),
    Row(
        SHARDS,
        "cuda",
        Seen.SIMULATOR,
        "backends/cuda/tests/test_engine.py"
        "::test_two_ranks_replay_graphs_in_which_they_exchange_results",
    ),
    Row(
        SHARDS,
        "xpu",
        Seen.SIMULATOR,
        "backends/xpu/tests/test_xpu.py"
        "::test_two_ranks_have_two_steps_in_flight_and_one_does_not_outlive_the_other",
    ),
    Row(
        SHARDS,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_ranks.py"
        "::test_tokens_of_two_gaudis_are_those_of_one_and_nothing_is_compiled_late",
    ),
    Row(
        NCCL,
        "cuda",
        Seen.NOWHERE,
        "backends/cuda/tests/test_on_gpu.py"
        "::test_two_gpus_compute_what_transformers_does_in_any_batch",
    ),
    Row(
        SHARED_CHECKPOINTS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_quantized_shards.py"
        "::test_two_ranks_compute_what_a_checkpoints_numbers_stand_for",
    ),
    Row(
        SHARED_ADAPTERS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_shared_adapters.py"
        "::test_many_adapters_on_two_ranks_equal_merged_weights",
    ),
    Row(
        SHARED_ADAPTERS,
        "xpu",
        Seen.SIMULATOR,
        "backends/xpu/tests/test_xpu.py::test_two_ranks_have_adapters_and_images_as_one_does",
    ),
    Row(
        SHARED_ADAPTERS,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_ranks.py"
        "::test_adapters_of_two_gaudis_give_the_tokens_of_one_and_nothing_is_compiled_late",
    ),
    Row(
        SHARED_IMAGES,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_shared_images.py"
        "::test_tokens_of_two_ranks_are_those_of_generate_in_any_batch",
    ),
    Row(
        SHARED_IMAGES,
        "xpu",
        Seen.SIMULATOR,
        "backends/xpu/tests/test_xpu.py::test_two_ranks_have_adapters_and_images_as_one_does",
    ),
    Row(
        SHARED_IMAGES,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_ranks.py"
        "::test_two_gaudis_look_at_images_as_one_does_and_nothing_is_compiled_late",
    ),
    Row(
        QUANTIZED,
        "openvino",
        Seen.DEVICE,
        "backends/openvino/tests/test_quantize.py::test_logits_stay_close",
    ),
    Row(
        CHECKPOINTS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_quantized.py"
        "::test_a_checkpoint_computes_what_its_numbers_stand_for",
    ),
    Row(
        FEW_BITS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_few_bits.py::test_the_kernel_of_4_bits_computes_the_same",
    ),
    Row(
        FEW_BITS,
        "cuda",
        Seen.DEVICE,
        "backends/cuda/tests/test_few_bits.py::test_ours_computes_what_unpacking_gives",
    ),
    Row(
        MARLIN,
        "cuda",
        Seen.SIMULATOR,
        "backends/cuda/tests/test_engine.py::test_graphs_hold_marlins_kernels",
    ),
    Row(
        FEW_BITS,
        "rocm",
        Seen.SIMULATOR,
        "backends/cuda/tests/test_few_bits.py::test_ours_computes_what_unpacking_gives",
    ),
    Row(
        CACHE,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_float8_cache.py::test_logits_stay_close",
    ),
    Row(
        HALF,
        "openvino",
        Seen.DEVICE,
        "tests/e2e/test_openvino_bfloat16.py::test_greedy_tokens_are_those_of_each_request_alone",
    ),
    Row(
        FP8,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_device.py::test_fp8_is_measured_and_then_quantized",
    ),
    Row(
        HALF,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_device.py::test_the_default_is_bfloat16",
    ),
    Row(
        HALF,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_steps.py::test_bfloat16_is_compiled_when_asked_for",
    ),
    Row(
        CACHE,
        "cuda",
        Seen.DEVICE,
        "backends/cuda/tests/test_on_gpu.py::test_a_cache_in_fp8_gives_nearly_the_same_logits",
    ),
    Row(
        HEADS,
        "torch",
        Seen.DEVICE,
        "backends/torch/tests/test_heads.py::test_random_heads_change_no_token",
    ),
    Row(
        GRAPHS,
        "cuda",
        Seen.DEVICE,
        "backends/cuda/tests/test_on_gpu.py::test_without_graphs_or_fusion_they_are_the_same",
    ),
    Row(
        GRAPHS,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_engine.py::test_the_simulator_sees_what_is_compiled_late",
    ),
    Row(
        GRAPHS,
        "xla",
        Seen.DEVICE,
        "backends/xla/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        GRAPHS,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_steps.py::test_graphs_are_run_and_never_compiled",
    ),
    Row(
        MIXED_TOKENS,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        MIXED_TOKENS,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        MIXED_TOKENS,
        "xla",
        Seen.DEVICE,
        "backends/xla/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        MIXED_TOKENS,
        "trtllm",
        Seen.SIMULATOR,
        "backends/trtllm/tests/test_engine.py::test_500_mixed_requests_give_what_the_cpu_gives",
    ),
    Row(
        MIXED_TOKENS,
        "xpu",
        Seen.SIMULATOR,
        "backends/xpu/tests/test_xpu.py::test_500_mixed_requests_give_what_the_cpu_gives",
    ),
    Row(
        MIXED,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        MIXED,
        "xla",
        Seen.DEVICE,
        "backends/xla/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        MIXED,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        EXPERTS,
        "gaudi",
        Seen.SIMULATOR,
        "backends/gaudi/tests/test_engine.py::test_experts_run_in_graphs_whichever_are_chosen",
    ),
    Row(
        EXPERTS,
        "xla",
        Seen.DEVICE,
        "backends/xla/tests/test_engine.py"
        "::test_500_mixed_requests_give_what_the_cpu_gives_and_compile_nothing",
    ),
    Row(
        AHEAD,
        "openvino",
        Seen.DEVICE,
        "backends/openvino/tests/test_exported.py"
        "::test_logits_are_those_of_a_whole_forward_in_any_batch",
    ),
    Row(
        AHEAD,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_export.py"
        "::test_the_command_that_is_named_compiles_what_was_wanted",
    ),
    Row(
        VENDOR,
        "neuron",
        Seen.SIMULATOR,
        "backends/neuron/tests/test_vendor.py"
        "::test_prompts_and_tokens_give_what_transformers_gives",
    ),
)
