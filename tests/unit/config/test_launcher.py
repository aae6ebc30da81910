import pytest

from tgi_core.config.launcher import (
    check,
    exports,
    launcher_options,
    level_of,
    settings_of,
    without_effect,
)
from tgi_core.config.settings import OPTIONS, Compat
from tgi_core.config.sources import build, choose
from tgi_core.config.tgi_flags import FLAGS
from tgi_core.contract import DType
from tgi_core.errors import ArgumentValidation, NotEnoughCUDADevices

TGI_DEFAULTS = {
    "model-id": "bigscience/bloom-560m",
    "validation-workers": 2,
    "trust-remote-code": False,
    "max-concurrent-requests": 128,
    "max-best-of": 2,
    "max-stop-sequences": 4,
    "max-top-n-tokens": 5,
    "waiting-served-ratio": 0.3,
    "max-waiting-tokens": 20,
    "hostname": "0.0.0.0",
    "port": 3000,
    "prometheus-port": 9000,
    "shard-uds-path": "/tmp/text-generation-server",
    "master-addr": "localhost",
    "master-port": 29500,
    "disable-custom-kernels": False,
    "cuda-memory-fraction": 1.0,
    "json-output": False,
    "ngrok": False,
    "max-client-batch-size": 4,
    "usage-stats": "on",
    "payload-limit": 2_000_000,
    "enable-prefill-logprobs": False,
    "graceful-termination-timeout": 90.0,
}
TGI_FLAGS = """
model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype
trust-remote-code max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens
max-input-tokens max-input-length max-total-tokens waiting-served-ratio max-batch-prefill-tokens
max-batch-total-tokens max-waiting-tokens max-batch-size cuda-graphs hostname port prometheus-port
shard-uds-path master-addr master-port huggingface-hub-cache weights-cache-override
disable-custom-kernels cuda-memory-fraction rope-scaling rope-factor json-output otlp-endpoint
otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok ngrok-authtoken
ngrok-edge tokenizer-config-path disable-grammar-support max-client-batch-size lora-adapters
usage-stats payload-limit enable-prefill-logprobs graceful-termination-timeout
""".split()


def chosen(flags=None, **environment):
    return choose(launcher_options(), flags or {}, environment)


def settings(flags=None, host_name="box", **environment):
    told = settings_of(chosen(flags, **environment), environment, host_name)
    return build(OPTIONS, told)


def test_every_flag_of_tgi_is_there_with_its_variable_and_default():
    options = {option.name: option for option in launcher_options()}
    for name in TGI_FLAGS:
        assert name.replace("-", "_").upper() in options[name].variables
    assert [flag.name for flag in FLAGS] == TGI_FLAGS
    assert {name: options[name].default for name in TGI_DEFAULTS} == TGI_DEFAULTS


def test_everything_else_of_tgi_serve_is_there_under_its_own_name():
    names = {option.name for option in launcher_options()}
    set_by_tgi = {flag.sets for flag in FLAGS}
    assert {option.name for option in OPTIONS} <= names | set_by_tgi
    assert len(names) == len(launcher_options())


def test_each_flag_means_something_or_says_why_not():
    for flag in FLAGS:
        if flag.name != "max-input-length":
            assert sum(map(bool, (flag.sets, flag.exports, flag.idle, flag.refused))) == 1, flag


def test_flags_become_settings():
    made = settings(
        {
            "model-id": "org/m",
            "revision": "refs/pr/1",
            "dtype": "bfloat16",
            "max-input-length": "100",
            "max-total-tokens": "200",
            "max-batch-prefill-tokens": "512",
            "max-batch-total-tokens": "4096",
            "max-batch-size": "8",
            "hostname": "127.0.0.1",
            "json-output": True,
            "graceful-termination-timeout": "5",
            "backend": "fake",
            "sharded": "true",
            "num-shard": "2",
        }
    )
    assert made.model.num_shards == 2
    assert (made.model.reference, made.model.revision) == ("org/m", "refs/pr/1")
    assert made.model.dtype is DType.BFLOAT16 and made.model.backend == "fake"
    assert (made.server.max_input_tokens, made.model.max_sequence_tokens) == (100, 200)
    assert (made.scheduling.max_step_tokens, made.model.cache_tokens) == (512, 4096)
    assert made.model.max_rows == 8 and made.logs.json
    assert made.server.host == "127.0.0.1"
    assert made.server.graceful_termination_timeout_s == 5


def test_variables_become_settings_and_flags_come_first():
    made = settings({"port": "1"}, MODEL_ID="org/m", PORT="2", MAX_BATCH_SIZE="3", QUANTIZE="awq")
    assert made.model.reference == "org/m" and made.server.port == 1
    assert made.model.max_rows == 3 and made.model.quantize == "awq"
    assert settings(PORT="2", TGI_PORT="4").server.port == 4
    assert settings(PREFIX_CACHING="0").scheduling.prefix_caching is False
    assert settings(COMPUTE_TYPE="1-nvidia-a10g").server.compute_type == "1-nvidia-a10g"


def test_the_variable_for_fetched_images_is_tgis():
    assert settings().images.fetch == ()
    assert settings(MAX_IMAGE_FETCH_SIZE="1000").images.max_fetch_bytes == 1000


def test_a_containers_own_name_is_no_address():
    assert settings(HOSTNAME="box").server.host == "0.0.0.0"
    assert settings(HOSTNAME="10.0.0.1").server.host == "10.0.0.1"
    assert settings({"hostname": "box"}).server.host == "box"
    assert settings(HOSTNAME="box", TGI_HOST="::1").server.host == "::1"


def test_answers_have_tgis_shapes_unless_something_else_is_said():
    assert settings().server.compat is Compat.TGI
    assert settings({"compat": "openai"}).server.compat is Compat.OPENAI
    assert build(OPTIONS, choose(OPTIONS, {}, {})).server.compat is Compat.OPENAI


def test_sagemakers_and_vertex_ais_variables():
    made = settings(
        HF_MODEL_ID="org/m", HF_MODEL_REVISION="r", HF_MODEL_QUANTIZE="gptq", SM_NUM_GPUS="1"
    )
    assert made.server.port == 8080
    assert (made.model.reference, made.model.revision) == ("org/m", "r")
    assert made.model.quantize == "gptq"
    assert settings(HF_MODEL_ID="org/m", PORT="80").server.port == 80
    assert settings(AIP_HTTP_PORT="7080", PORT="80").server.port == 7080


@pytest.mark.parametrize(
    ("log_filter", "level"),
    [
        ("debug", "DEBUG"),
        ("WARN", "WARNING"),
        ("text_generation_router=trace,h2=error", "DEBUG"),
        ("info,text_generation_launcher=error", "ERROR"),
        ("h2=debug", "INFO"),
        ("nonsense", "INFO"),
    ],
)
def test_levels_are_read_from_tgis_filters(log_filter, level):
    assert level_of(log_filter) == level
    assert settings(LOG_LEVEL=log_filter).logs.level == level


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"max-input-tokens": "5", "max-input-length": "6"},
            "Both `max_input_tokens` (5) and `max_input_length` (6) are set. Please define only "
            "`max_input_tokens` as `max_input_length is deprecated for naming consistency.",
        ),
        (
            {"max-input-length": "5", "max-total-tokens": "5"},
            "`max_input_tokens`(5) must be < `max_total_tokens`(5)",
        ),
        ({"sharded": "true", "num-shard": "1"}, "`sharded` is true but `num_shard` <= 1"),
        ({"num-shard": "0"}, "`num_shard` cannot be < 1"),
        (
            {"num-shard": "2", "quantize": "exl2"},
            "Sharding is currently not supported with `exl2` quantization",
        ),
        ({"validation-workers": "0"}, "`validation_workers` must be > 0"),
        ({"ngrok": True}, "`ngrok-authtoken` must be set when using ngrok tunneling"),
        (
            {"ngrok": True, "ngrok-authtoken": "x"},
            "`ngrok-edge` must be set when using ngrok tunneling",
        ),
        (
            {"max-batch-total-tokens": "10", "max-total-tokens": "11"},
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 11 and 10",
        ),
        ({"lora-adapters": "a=b=c"}, "Invalid LoRA adapter format: a=b=c"),
    ],
)
def test_tgis_errors_in_tgis_words(flags, words):
    with pytest.raises(ArgumentValidation) as error:
        check(chosen(flags))
    assert str(error.value) == words and error.value.exit_code == 1


def test_a_model_cannot_be_shared_by_devices_that_are_not_there():
    with pytest.raises(NotEnoughCUDADevices, match="only found 0 CUDA devices"):
        check(chosen({"sharded": "true"}))


@pytest.mark.parametrize(
    "flags",
    [
        {"weights-cache-override": "x"},
        {"rope-factor": "2"},
    ],
)
def test_what_would_change_the_output_is_refused_and_never_ignored(flags):
    with pytest.raises(ArgumentValidation, match=f"--{next(iter(flags))} is not supported"):
        check(chosen(flags))


def test_what_has_no_effect_says_so_once_for_each_that_was_given():
    assert without_effect(chosen(), {}) == []
    environment = {"MASTER_PORT": "1", "USE_FLASH_ATTENTION": "false"}
    told = without_effect(
        chosen({"cuda-graphs": "0", "validation-workers": "4"}, **environment), environment
    )
    assert [sentence.split(" has no effect: ")[0] for sentence in told] == [
        "--validation-workers",
        "--cuda-graphs",
        "MASTER_PORT",
        "USE_FLASH_ATTENTION",
    ]


def test_variables_for_libraries():
    assert exports(chosen(), {}) == {}
    assert exports(chosen({"huggingface-hub-cache": "/data"}), {}) == {"HF_HUB_CACHE": "/data"}
    assert exports(chosen(), {"HF_API_TOKEN": "t"}) == {"HF_TOKEN": "t"}
    assert exports(chosen(), {"HF_API_TOKEN": "t", "HF_TOKEN": "u"}) == {}
