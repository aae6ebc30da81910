"""Every metric: its name, type, label and meaning. /metrics and its reference page follow this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """Why a request failed; the values are TGI's."""

    OVERLOADED = "overloaded"
    VALIDATION = "validation"
    TEMPLATE = "template"
    INCOMPLETE = "incomplete"
    DROPPED = "dropped"
    """The client went away."""
    GENERATION = "generation"


class Progress(Enum):
    """How far a request had come."""

    VALIDATION = "validation"
    QUEUE = "queue"
    INFERENCE = "inference"


class Refusal(Enum):
    """Why a request never reached its route."""

    KEY = "key"
    ORIGIN = "origin"
    HOST = "host"


class Method(Enum):
    """Kind of a step; the values are TGI's."""

    PREFILL = "prefill"
    DECODE = "decode"


class ConcatMethod(Enum):
    """Kind of the batch that sequences join; as in TGI, always one that decodes."""

    DECODE = "decode"


class Reason(Enum):
    """Why new sequences joined running ones; one of TGI's values."""

    CHUNKING = "chunking"


class Kind(Enum):
    """Type of a metric, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Bounds(Enum):
    """Buckets of a histogram, in words."""

    DURATION = "35: 0.0001 · 1.5^k seconds"
    INPUT = "100, even, up to the longest prompt"
    TOTAL = "100, even, up to the longest prompt and output"
    BATCH = "1, 2, 3 … 1024"
    SKIPPED = "0, 1, 2 … 16"


@dataclass(frozen=True, slots=True)
class Label:
    """A label and all the values that it can have; none ever comes from a client."""

    name: str
    values: type[Enum]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One family of series."""

    name: str
    kind: Kind
    text: str
    """What it counts or measures."""
    label: Label | None = None
    bounds: Bounds | None = None
    """Histograms have them."""
    tgi: str | None = ""
    """How TGI's metric of this name differs; None if TGI has none."""


_ERR = Label("err", Cause)
_METHOD = Label("method", Method)
_EACH = "Each sequence that came to its end: "

REQUEST_COUNT = Metric(
    name="tgi_request_count",
    kind=Kind.COUNTER,
    text="Requests for generated text that came in, whatever became of them.",
    tgi="counts chats and completions twice, and `/chat_tokenize`, but no malformed body",
)
REQUEST_SUCCESS = Metric(
    name="tgi_request_success",
    kind=Kind.COUNTER,
    text="Requests that were answered to the end.",
)
REQUEST_FAILURE = Metric(
    name="tgi_request_failure",
    kind=Kind.COUNTER,
    text="Requests that failed, by reason; `dropped` is a client that went away.",
    label=_ERR,
    tgi="a malformed body is not counted",
)
REQUEST_DURATION = Metric(
    name="tgi_request_duration",
    kind=Kind.HISTOGRAM,
    text="Requests that succeeded: seconds from their arrival to their last byte.",
    bounds=Bounds.DURATION,
)
REQUEST_VALIDATION_DURATION = Metric(
    name="tgi_request_validation_duration",
    kind=Kind.HISTOGRAM,
    text="Requests that succeeded: seconds from their arrival until the engine had them.",
    bounds=Bounds.DURATION,
)
REQUEST_QUEUE_DURATION = Metric(
    name="tgi_request_queue_duration",
    kind=Kind.HISTOGRAM,
    text=_EACH + "seconds that it waited for its first step.",
    bounds=Bounds.DURATION,
)
REQUEST_INFERENCE_DURATION = Metric(
    name="tgi_request_inference_duration",
    kind=Kind.HISTOGRAM,
    text=_EACH + "seconds from its first step to its end.",
    bounds=Bounds.DURATION,
)
REQUEST_MEAN_TIME_PER_TOKEN = Metric(
    name="tgi_request_mean_time_per_token_duration",
    kind=Kind.HISTOGRAM,
    text=_EACH + "seconds of inference for each of its tokens.",
    bounds=Bounds.DURATION,
)
REQUEST_INPUT_LENGTH = Metric(
    name="tgi_request_input_length",
    kind=Kind.HISTOGRAM,
    text="Each sequence sent to the engine: tokens of its prompt.",
    bounds=Bounds.INPUT,
)
REQUEST_MAX_NEW_TOKENS = Metric(
    name="tgi_request_max_new_tokens",
    kind=Kind.HISTOGRAM,
    text="Each sequence sent to the engine: most tokens it may generate.",
    bounds=Bounds.TOTAL,
)
REQUEST_GENERATED_TOKENS = Metric(
    name="tgi_request_generated_tokens",
    kind=Kind.HISTOGRAM,
    text=_EACH + "tokens that it generated.",
    bounds=Bounds.TOTAL,
)
REQUEST_SKIPPED_TOKENS = Metric(
    name="tgi_request_skipped_tokens",
    kind=Kind.HISTOGRAM,
    text=_EACH + "for each of its steps, tokens beyond the first, which speculation won.",
    bounds=Bounds.SKIPPED,
    tgi="a summary, so that the `_bucket` series of its own Grafana board do not exist",
)
REQUEST_TIME_TO_FIRST_TOKEN = Metric(
    name="tgi_request_time_to_first_token_duration",
    kind=Kind.HISTOGRAM,
    text="Each sequence with a token: seconds from the request's arrival to the first one.",
    bounds=Bounds.DURATION,
    tgi=None,
)
REQUEST_INTER_TOKEN_LATENCY = Metric(
    name="tgi_request_inter_token_duration",
    kind=Kind.HISTOGRAM,
    text="Each token but the first: seconds since the last one; tokens that come together share.",
    bounds=Bounds.DURATION,
    tgi=None,
)
REQUEST_CANCELLED = Metric(
    name="tgi_request_cancelled_total",
    kind=Kind.COUNTER,
    text="Requests whose client went away, by how far they had come.",
    label=Label("progress", Progress),
    tgi=None,
)
REFUSED = Metric(
    name="tgi_refused_requests_total",
    kind=Kind.COUNTER,
    text="Requests turned away by their API key, the page's origin or the host name.",
    label=Label("reason", Refusal),
    tgi=None,
)
QUEUE_SIZE = Metric(
    name="tgi_queue_size",
    kind=Kind.GAUGE,
    text="Sequences that wait for room.",
)
BATCH_CURRENT_SIZE = Metric(
    name="tgi_batch_current_size",
    kind=Kind.GAUGE,
    text="Sequences that are running.",
)
BATCH_CURRENT_MAX_TOKENS = Metric(
    name="tgi_batch_current_max_tokens",
    kind=Kind.GAUGE,
    text="Tokens that the running sequences could grow to: prompts and `max_new_tokens`.",
)
BATCH_MAX_TOTAL_TOKENS = Metric(
    name="tgi_batch_max_total_tokens",
    kind=Kind.GAUGE,
    text="Tokens that the KV cache holds.",
    tgi="set before anything listens, so usually missing",
)
BATCH_NEXT_SIZE = Metric(
    name="tgi_batch_next_size",
    kind=Kind.HISTOGRAM,
    text="Each step with new sequences: how many left the queue for it.",
    bounds=Bounds.BATCH,
)
BATCH_INFERENCE_COUNT = Metric(
    name="tgi_batch_inference_count",
    kind=Kind.COUNTER,
    text="Steps. One that computes any token of a prompt is a `prefill`.",
    label=_METHOD,
)
BATCH_INFERENCE_SUCCESS = Metric(
    name="tgi_batch_inference_success",
    kind=Kind.COUNTER,
    text="Steps that worked.",
    label=_METHOD,
)
BATCH_INFERENCE_FAILURE = Metric(
    name="tgi_batch_inference_failure",
    kind=Kind.COUNTER,
    text="Steps that failed. They are tried again in parts, to find the guilty rows.",
    label=_METHOD,
    tgi="not tried again: all requests of the batch fail",
)
BATCH_INFERENCE_DURATION = Metric(
    name="tgi_batch_inference_duration",
    kind=Kind.HISTOGRAM,
    text="Each step that worked: seconds from its start, or the end of the one before, to its end.",
    label=_METHOD,
    bounds=Bounds.DURATION,
)
BATCH_FORWARD_DURATION = Metric(
    name="tgi_batch_forward_duration",
    kind=Kind.HISTOGRAM,
    text="Each step that worked: seconds in the model; on devices that sample, sampling too.",
    label=_METHOD,
    bounds=Bounds.DURATION,
)
BATCH_DECODE_DURATION = Metric(
    name="tgi_batch_decode_duration",
    kind=Kind.HISTOGRAM,
    text="Each step that worked: seconds to choose tokens on the host and to take them in.",
    label=_METHOD,
    bounds=Bounds.DURATION,
    tgi="decoding to text too, which happens in the API process here",
)
BATCH_FILTER_DURATION = Metric(
    name="tgi_batch_filter_duration",
    kind=Kind.HISTOGRAM,
    text="Each step in which sequences ended: seconds to take them out of the batch.",
    label=_METHOD,
    bounds=Bounds.DURATION,
)
BATCH_CONCAT_DURATION = Metric(
    name="tgi_batch_concat_duration",
    kind=Kind.HISTOGRAM,
    text="Each step in which new sequences joined running ones: seconds to choose its rows.",
    label=Label("method", ConcatMethod),
    bounds=Bounds.DURATION,
)
BATCH_CONCAT = Metric(
    name="tgi_batch_concat",
    kind=Kind.COUNTER,
    text="Steps in which new sequences joined running ones.",
    label=Label("reason", Reason),
    tgi="also `backpressure` and `wait_exceeded`, where a model cannot chunk",
)
STEP_PROMPT_TOKENS = Metric(
    name="tgi_prompt_tokens_total",
    kind=Kind.COUNTER,
    text="Prompt tokens computed; those computed again after a preemption included.",
    tgi=None,
)
STEP_GENERATED_TOKENS = Metric(
    name="tgi_generated_tokens_total",
    kind=Kind.COUNTER,
    text="Tokens generated, those of requests that later failed included.",
    tgi=None,
)
DRAFTED_TOKENS = Metric(
    name="tgi_drafted_tokens_total",
    kind=Kind.COUNTER,
    text="Tokens that the speculator guessed and the model checked.",
    tgi=None,
)
ACCEPTED_TOKENS = Metric(
    name="tgi_accepted_tokens_total",
    kind=Kind.COUNTER,
    text="Those of them that were right, so that no step was needed for them.",
    tgi=None,
)
PREFIX_CACHE_HIT_TOKENS = Metric(
    name="tgi_prefix_cache_hit_tokens_total",
    kind=Kind.COUNTER,
    text="Prompt tokens that the prefix cache supplied.",
    tgi=None,
)
KV_CACHE_USED_TOKENS = Metric(
    name="tgi_kv_cache_used_tokens",
    kind=Kind.GAUGE,
    text="Tokens that the KV cache holds now, parked sequences included.",
    tgi=None,
)
KV_CACHE_CAPACITY_TOKENS = Metric(
    name="tgi_kv_cache_capacity_tokens",
    kind=Kind.GAUGE,
    text="Tokens that the KV cache can hold.",
    tgi=None,
)
KV_CACHE_PARKED_SEQUENCES = Metric(
    name="tgi_kv_cache_parked_sequences",
    kind=Kind.GAUGE,
    text="Finished sequences that are kept for their beginnings until the room is needed.",
    tgi=None,
)
PREEMPTIONS = Metric(
    name="tgi_preemptions_total",
    kind=Kind.COUNTER,
    text="Running sequences that lost their room to others, to be recomputed later.",
    tgi=None,
)
DEVICE_MEMORY_BYTES = Metric(
    name="tgi_device_memory_bytes",
    kind=Kind.GAUGE,
    text="Memory that the backend says it uses; 0 if it does not say.",
    tgi=None,
)
ENGINE_RESTARTS = Metric(
    name="tgi_engine_restarts_total",
    kind=Kind.COUNTER,
    text="Engine processes that died; open requests go on in the next one.",
    tgi=None,
)
ENGINE_READY = Metric(
    name="tgi_engine_ready",
    kind=Kind.GAUGE,
    text="1 if an engine takes requests, 0 while one is being loaded.",
    tgi=None,
)

CATALOG = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of the page."""
