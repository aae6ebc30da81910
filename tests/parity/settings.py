"""TGI's flags and environment variables.

What each flag is stands in tgi_core/config/tgi_flags.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.backend_variables import specs
from tests.parity.rows import Row, Rows, Verdict, better, no_meaning, one_a_name, refused, yes
from tgi_core.config.tgi_flags import FLAGS, IDLE_VARIABLES, TgiFlag

_FLAGS = "tests/unit/config/test_tgi_flags.py::"
_LAUNCHER = "tests/unit/config/test_launcher.py::"
_DEVICES = "tests/unit/engine/test_variables.py::"
_HUB = "tests/unit/builtin/test_hub_source.py::"
_SETS = _FLAGS + "test_each_flag_that_is_a_setting_sets_it"
_REFUSED = _FLAGS + "test_each_flag_that_would_be_missed_is_refused_by_name"
_IDLE = _FLAGS + "test_each_flag_without_effect_says_so"
_SILENT = _FLAGS + "test_variables_without_meaning_change_nothing"
_CLOUDS = _LAUNCHER + "test_sagemakers_and_vertex_ais_variables"

_WATERMARK = "with the plugin `watermark_kgw`"

SPECIAL_FLAGS: dict[str, Row] = {
    "max-input-length": yes(
        _LAUNCHER + "test_flags_become_settings", "older name of `max-input-tokens`"
    ),
    "model-id": yes(_SETS, "`MODEL` of `tgi serve`"),
    "sharded": refused(
        _LAUNCHER + "test_a_model_cannot_be_shared_by_devices_that_are_not_there",
        "`true` needs `num-shard`, since nobody counts devices",
    ),
    "num-shard": yes(
        _SETS,
        "one device, or process on a CPU, for each; "
        "`torch`, `cuda`, `rocm`, `xpu` and `gaudi` do it",
    ),
    "huggingface-hub-cache": yes(_LAUNCHER + "test_variables_for_libraries"),
    "hostname": better(
        _LAUNCHER + "test_a_containers_own_name_is_no_address",
        "the variable is ignored if it is only the container's own name",
    ),
    "api-key": better(
        "tests/unit/api/test_keys.py::test_a_right_key_is_right_in_either_header",
        "compared exactly and in constant time; several keys; also in `x-api-key`",
    ),
    "cors-allow-origin": better(
        "tests/unit/api/test_options.py::test_compat_tgi_lets_all_pages_in_unless_some_are_named",
        "pages may also send `Authorization`",
        "tests/unit/api/test_origins.py::test_a_named_page_may_send_its_key",
    ),
    "lora-adapters": better(
        "tests/unit/config/test_adapters.py::test_each_of_tgis_forms_is_read",
        "prefixes are shared within an adapter; more can be loaded while the server runs",
        "tests/e2e/test_adapters.py::test_adapters_are_loaded_and_unloaded_while_the_server_runs",
    ),
    "tokenizer-config-path": better(
        _SETS,
        "`--chat-template` of `tgi serve`; also a file with the Jinja template alone",
        "tests/unit/text/test_own_template.py::"
        "test_a_tokenizers_configuration_gives_its_template_and_tokens",
    ),
    "quantize": yes(
        "backends/torch/tests/test_quantized.py"
        "::test_a_checkpoint_computes_what_its_numbers_stand_for",
        "all names with the torch backend, but `exl2`, which says where it runs, and on GPUs by "
        "Marlin's kernels (not verified on a device); other backends say which names they take",
        "backends/torch/tests/test_quantized.py::test_weights_are_rounded_when_that_is_asked_for",
    ),
    "kv-cache-dtype": yes(
        "backends/torch/tests/test_float8_cache.py::test_logits_stay_close",
        "with the torch backend on CPUs too; other backends say which they take",
    ),
    "watermark-gamma": yes(_SETS, _WATERMARK),
    "watermark-delta": yes(_SETS, _WATERMARK),
    "otlp-endpoint": yes(_SETS, "with the plugin `trace_otlp`"),
    "max-batch-prefill-tokens": yes(_SETS, "the token budget of a step"),
    "max-batch-total-tokens": yes(_SETS, "the size of the KV cache"),
}
"""Where the table of flags does not say enough."""

OTHER_FLAGS: dict[str, Row] = {
    "env": yes("tests/e2e/test_launcher.py::test_all_flags_of_tgi_at_once"),
}
"""Flags of the command that are no settings."""


def flags() -> Iterator[tuple[str, Row]]:
    """Each flag of TGI's launcher, in TGI's order, and its verdict."""
    for flag in FLAGS:
        yield flag.name, SPECIAL_FLAGS.get(flag.name) or _row(flag)
    yield from OTHER_FLAGS.items()


def _row(flag: TgiFlag) -> Row:
    if flag.refused is not None:
        return Row(Verdict.REFUSED, flag.refused, (_REFUSED,))
    if flag.idle is not None:
        return Row(Verdict.NO_MEANING, flag.idle, (_IDLE,))
    renamed = "" if flag.sets == flag.name else f"`--{flag.sets}` of `tgi serve`"
    return yes(_SETS, renamed)


_OTHER_VARIABLES: Rows = {
    "HF_TOKEN": yes(_HUB + "test_a_token_opens_what_is_closed"),
    "HUGGING_FACE_HUB_TOKEN": yes(_HUB + "test_the_tokens_older_name_is_known"),
    "HF_API_TOKEN": yes(_LAUNCHER + "test_variables_for_libraries", "stands in for `HF_TOKEN`"),
    "HF_HUB_OFFLINE": yes(
        _HUB + "test_a_second_time_nothing_is_fetched_and_offline_nothing_is_asked"
    ),
    "HUGGINGFACE_HUB_CACHE": yes(_LAUNCHER + "test_variables_for_libraries"),
    "HF_HUB_USER_AGENT_ORIGIN": yes(_HUB + "test_the_hub_learns_who_asks"),
    "HF_HUB_ENABLE_HF_TRANSFER": no_meaning(_SILENT, "the hub's library chooses how it downloads"),
    "LOG_LEVEL": yes(_LAUNCHER + "test_levels_are_read_from_tgis_filters"),
    "PREFIX_CACHING COMPUTE_TYPE": yes(
        _LAUNCHER + "test_variables_become_settings_and_flags_come_first"
    ),
    "MAX_IMAGE_FETCH_SIZE": better(
        _LAUNCHER + "test_the_variable_for_fetched_images_is_tgis",
        "20 MB unless given, not 1 GiB; nothing is fetched without `--image-fetch`",
    ),
    "PYTORCH_TUNABLEOP_ENABLED PYTORCH_TUNABLEOP_SEQLENS PYTORCH_TUNABLEOP_TUNING": no_meaning(
        _SILENT, "torch itself reads its own"
    ),
    "CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES ZE_AFFINITY_MASK": no_meaning(
        _SILENT, "nobody counts devices: `num-shard` says how many; libraries may read them"
    ),
    "OMP_NUM_THREADS": no_meaning(
        _SILENT, "not read here, though a backend's library may; `--threads` comes first"
    ),
    "RANK WORLD_SIZE DEBUG TORCH_NCCL_AVOID_RECORD_STREAMS SAFETENSORS_FAST_GPU": no_meaning(
        _SILENT, "only TGI's shards need it"
    ),
    "HABANA_VISIBLE_DEVICES PT_HPU_LAZY_MODE PT_HPU_ENABLE_LAZY_COLLECTIVES": no_meaning(
        _SILENT, "Habana's PyTorch itself reads its own"
    ),
    "AIP_HTTP_PORT SM_NUM_GPUS HF_MODEL_ID HF_MODEL_REVISION HF_MODEL_QUANTIZE": yes(_CLOUDS),
    "AIP_PREDICT_ROUTE AIP_HEALTH_ROUTE": yes(
        "tests/unit/api/test_options.py::test_vertex_names_its_routes_by_variables_of_its_own"
    ),
    "HF_MODEL_TRUST_REMOTE_CODE": no_meaning(
        _FLAGS + "test_a_variable_of_sagemaker_without_effect_says_so_too",
        "code that comes with a model is never run",
    ),
}


def variables() -> Iterator[tuple[str, Row]]:
    """Each variable of TGI that no flag is named like, and its verdict."""
    yield from one_a_name(_OTHER_VARIABLES)
    for name, why in IDLE_VARIABLES.items():
        yield name, no_meaning(_FLAGS + "test_each_variable_without_effect_says_so", why)
    for spec in specs():
        for name, option in spec.variables.items():
            text = f"option `{option}` of the backend `{spec.name}`"
            yield name, yes(_DEVICES + "test_a_variable_sets_an_option_unless_it_is_given", text)
        for name, why in spec.idle_variables.items():
            yield name, no_meaning(_DEVICES + "test_a_variable_without_effect_says_so", why)


def silent_variables() -> list[str]:
    """Variables of which nobody takes notice."""
    return [name for name, row in variables() if _SILENT in row.tests]
