"""What the operator decides, as typed, frozen data: one class for each consumer.

Each field is a flag, an environment variable and a key of the config file at once; the text with it
is its documentation. Where values come from is in `sources.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tgi_core.config.kinds import (
    ADAPTERS,
    COUNT,
    FILE,
    FOLDER,
    KEY,
    NAME,
    PAIRS,
    PORT,
    ROUTE,
    SECONDS,
    SWITCH,
    WORD,
    fraction,
    list_of,
    member_of,
    number,
    one_of,
    whole_number,
)
from tgi_core.config.options import options_of, setting
from tgi_core.contract import DType


class Compat(Enum):
    """Whose shape an answer has where OpenAI and TGI differ on one route."""

    OPENAI = "openai"
    TGI = "tgi"
    """For clients that were made for TGI: also its open routes and its CORS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What to load, and how large."""

    reference: str = setting(
        "",
        NAME,
        "a Hugging Face folder, a GGUF file, or a model on the hub such as org/name",
        flag="model",
        positional=True,
    )
    revision: str | None = setting(None, NAME, "branch, tag or commit of a model on the hub")
    backend: str | None = setting(None, NAME, "default: what fits the model and the machine")
    dtype: DType | None = setting(None, member_of(DType), "default: the model's")
    quantize: str | None = setting(None, NAME, "what to make of the weights, such as int8")
    kv_cache_dtype: str | None = setting(None, NAME, "what keys and values are kept in, such as u8")
    device: str | None = setting(None, NAME, "a device of the backend; default: its first")
    num_shards: int | None = setting(
        None, COUNT, "devices, or processes on a CPU, that share the model", flag="num-shard"
    )
    max_sequence_tokens: int | None = setting(
        None, COUNT, "longest prompt and output; default: the model's", flag="max-total-tokens"
    )
    max_rows: int | None = setting(None, COUNT, "most sequences in one step", flag="max-batch-size")
    cache_tokens: int | None = setting(None, COUNT, "size of the KV cache")
    num_threads: int | None = setting(
        None, COUNT, "CPU threads; default: all cores", flag="threads"
    )
    chat_template: Path | None = setting(
        None,
        FILE,
        "a tokenizer_config.json, or a file with a Jinja template, to use instead of the model's",
    )
    options: dict[str, str] = setting(
        {}, PAIRS, "an option of the backend's own; may be repeated", flag="backend-option"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    """How requests share the engine."""

    max_step_tokens: int | None = setting(None, COUNT, "token budget of a step")
    max_chunk_tokens: int | None = setting(None, COUNT, "longest chunk of a prompt")
    prefix_caching: bool = setting(
        True, SWITCH, "share equal beginnings of prompts", flag="prefix-cache"
    )
    queue_policy: str = setting("fcfs", NAME, "who is admitted first")
    step_timeout_s: float = setting(
        600.0,
        SECONDS,
        "longest that an engine with requests may take to compute a token; then it hangs, and is "
        "replaced. 0: as long as it takes",
        flag="step-timeout",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSettings:
    """How tokens are guessed ahead."""

    num_drafts: int | None = setting(
        None,
        whole_number(0, 64),
        "most tokens guessed ahead of a sequence; fewer where they do not pay. Default: 0, and 5 "
        "with --draft-model",
        flag="speculate",
    )
    speculator: str | None = setting(
        None, NAME, "what guesses tokens; default: the draft model if there is one, else ngram"
    )
    draft_model: str | None = setting(
        None,
        NAME,
        "a smaller model of the same vocabulary that guesses tokens, or a folder of Medusa heads",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceSettings:
    """How outputs are kept within grammars."""

    disabled: bool = setting(
        False, SWITCH, "refuse requests with a grammar", flag="disable-grammar-support"
    )
    engine: str = setting("llguidance", NAME, "what understands grammars", flag="guidance-engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkSettings:
    """How requests with `watermark` are marked, by the plugin watermark-kgw."""

    gamma: float = setting(
        0.5, fraction(), "share of the vocabulary that a mark prefers", flag="watermark-gamma"
    )
    delta: float = setting(
        2.0, number(0), "what it adds to the logits of that share", flag="watermark-delta"
    )
    key: int = setting(
        15485863,
        whole_number(0, 2**63 - 1),
        "chooses the share; who knows it can find the mark, and remove it. The default is TGI's, "
        "known to all",
        flag="watermark-key",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which adapters requests may ask for."""

    wanted: str | None = setting(
        None,
        ADAPTERS,
        "adapters to serve beside the model: ID, ID@REVISION, NAME=PATH, NAME=PATH@REVISION",
        flag="lora-adapters",
    )
    max_held: int = setting(
        8, COUNT, "most adapters in memory at once; requests for others wait", flag="max-loras"
    )
    max_known: int = setting(
        64, COUNT, "most adapters that requests may name", flag="max-lora-adapters"
    )
    max_rank: int = setting(256, COUNT, "highest rank of an adapter", flag="max-lora-rank")
    folder: Path | None = setting(
        None,
        FOLDER,
        "lets clients load and unload adapters that lie in it; needs --admin-api-key or "
        "--api-key if other machines can reach the server",
        flag="lora-folder",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """Which images requests may hold."""

    max_images: int = setting(16, COUNT, "most images in a request")
    max_image_pixels: int = setting(36_000_000, COUNT, "most pixels of an image")
    fetch: tuple[str, ...] = setting(
        (),
        list_of(NAME),
        "a host that images may be fetched from over https; *.example.com is any below that one, * "
        "is any; may be repeated; default: none is fetched",
        flag="image-fetch",
    )
    max_fetch_bytes: int = setting(
        20_000_000, COUNT, "largest image that is fetched, in bytes", flag="max-image-fetch-size"
    )
    fetch_timeout_s: float = setting(
        10.0, SECONDS, "how long fetching an image may take", flag="image-fetch-timeout"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where and how much to serve."""

    host: str = setting("127.0.0.1", NAME, "address to listen on; 0.0.0.0 is all of them")
    port: int = setting(3000, PORT, "0 takes any that is free", short="-p")
    served_model_name: str | None = setting(None, NAME, "what clients see; default: MODEL")
    max_concurrent_requests: int = setting(128, COUNT, "from then on clients get status 429")
    max_input_tokens: int | None = setting(None, COUNT, "longest prompt")
    max_best_of: int = setting(2, COUNT, "highest best_of of a request")
    max_choices: int = setting(16, COUNT, "highest n of a request, OpenAI's word for choices")
    max_stop_sequences: int = setting(4, COUNT, "most stop strings of a request")
    max_top_n_tokens: int = setting(5, COUNT, "most alternatives listed for a token")
    max_client_batch_size: int = setting(4, COUNT, "most prompts in a completion request")
    tool_call_parser: str = setting(
        "auto", NAME, "how the model writes tool calls: a name, auto or none"
    )
    reasoning_parser: str = setting(
        "auto", NAME, "how the model marks its reasoning: a name, auto or none"
    )
    payload_limit: int = setting(2_000_000, COUNT, "largest body of a request, in bytes")
    graceful_termination_timeout_s: float = setting(
        90.0,
        SECONDS,
        "how long open requests may go on after SIGTERM",
        flag="graceful-termination-timeout",
    )
    api_key: tuple[str, ...] = setting(
        (), list_of(KEY), "clients must send it, or another one; may be repeated", secret=True
    )
    admin_api_key: tuple[str, ...] = setting(
        (),
        list_of(KEY),
        "opens all routes; if there is one, only it opens those that change the server; may be "
        "repeated",
        secret=True,
    )
    cors_allow_origin: tuple[str, ...] = setting(
        (), list_of(NAME), "web pages of it may call the server, * is all; may be repeated"
    )
    allowed_host: tuple[str, ...] = setting(
        (), list_of(NAME), "a name that clients call the server by, * is any; may be repeated"
    )
    compat: Compat = setting(
        Compat.OPENAI, member_of(Compat), "whose shapes answers have where OpenAI and TGI differ"
    )
    compute_type: str | None = setting(
        None, WORD, "what the header x-compute-type says; default: the backend's device"
    )
    aip_predict_route: str | None = setting(
        None, ROUTE, "Vertex AI's name for /vertex", also=("AIP_PREDICT_ROUTE",)
    )
    aip_health_route: str | None = setting(
        None, ROUTE, "Vertex AI's name for /health", also=("AIP_HEALTH_ROUTE",)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, and how it looks."""

    level: str = setting(
        "INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"), "least level", flag="log-level"
    )
    json: bool = setting(False, SWITCH, "log lines as JSON objects", flag="json-output")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Where traces go."""

    otlp_endpoint: str | None = setting(
        None, NAME, "sends traces there, over gRPC: http://HOST:4317; default: nowhere"
    )
    otlp_service_name: str = setting(
        "text-generation-inference.router", NAME, "what this server is called in traces"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """Which plugins are left out."""

    disabled: tuple[str, ...] = setting(
        (), list_of(NAME), "leaves one out; may be repeated", flag="disable-plugin"
    )
    installed: bool = setting(
        True, SWITCH, "load installed plugins, not only those of the core", flag="plugins"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them."""

    model: ModelSettings
    scheduling: SchedulingSettings
    speculation: SpeculationSettings
    guidance: GuidanceSettings
    watermark: WatermarkSettings
    adapters: AdapterSettings
    images: ImageSettings
    server: ServerSettings
    logs: LogSettings
    traces: TraceSettings
    plugins: PluginSettings


OPTIONS = options_of(Settings)
"""All that `tgi serve` can be told."""
