"""TGI's flags and environment variables: what each is here, or why it is nothing.

A table. How it is applied is in `launcher.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tgi_core.config.kinds import COUNT, FOLDER, NAME, SWITCH, TEXT, Kind, number, whole_number

ANY_NUMBER = whole_number(0)
"""Zero too: some zeros have an error text of their own."""
BOOL = Kind("{true,false}", SWITCH.read)
"""A switch whose flag takes a value."""

_NO_SHARDS = "shards find each other by themselves, and nobody else talks to them"
_CONTINUOUS = "prompts run in the same steps as decoding, so neither waits for the other"
_NO_KERNELS = "kernels belong to the backends here, and each chooses its own"
_NO_TUNNEL = "there are no tunnels here, and those of TGI crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class TgiFlag:
    """A flag of text-generation-launcher. What it does not say is as in the option that it sets."""

    name: str
    sets: str | None = None
    """The option of `tgi serve` that it is here, if it is one."""
    exports: str | None = None
    """The environment variable that it is for libraries."""
    idle: str | None = None
    """Why it has no effect."""
    refused: str | None = None
    """Why nobody should believe that it has one."""
    kind: Kind = TEXT
    """That of the option, if it sets one and nothing else is said."""
    default: Any = None
    help: str | None = None
    also: tuple[str, ...] = ()
    """Variables that come after the one that is named like the flag."""
    first: tuple[str, ...] = ()
    """Variables that come before it."""


def _same(name: str, **more: Any) -> TgiFlag:
    return TgiFlag(name=name, sets=name, **more)


FLAGS: tuple[TgiFlag, ...] = (
    TgiFlag(name="model-id", sets="model", default="bigscience/bloom-560m", also=("HF_MODEL_ID",)),
    _same("revision", also=("HF_MODEL_REVISION",)),
    TgiFlag(
        name="validation-workers",
        kind=ANY_NUMBER,
        default=2,
        idle="texts become tokens in as many threads as there is work for",
    ),
    TgiFlag(name="sharded", kind=BOOL, idle="`--num-shard` says among how many devices"),
    _same("num-shard", kind=ANY_NUMBER, also=("SM_NUM_GPUS",)),
    _same("quantize", also=("HF_MODEL_QUANTIZE",)),
    _same("speculate"),
    _same("dtype"),
    _same("kv-cache-dtype"),
    TgiFlag(
        name="trust-remote-code",
        kind=SWITCH,
        default=False,
        also=("HF_MODEL_TRUST_REMOTE_CODE",),
        idle="code that comes with a model is never run",
    ),
    _same("max-concurrent-requests"),
    _same("max-best-of"),
    _same("max-stop-sequences"),
    _same("max-top-n-tokens"),
    _same("max-input-tokens"),
    TgiFlag(name="max-input-length", kind=COUNT, help="older name of --max-input-tokens"),
    _same("max-total-tokens"),
    TgiFlag(name="waiting-served-ratio", kind=number(0), default=0.3, idle=_CONTINUOUS),
    TgiFlag(name="max-batch-prefill-tokens", sets="max-step-tokens"),
    TgiFlag(name="max-batch-total-tokens", sets="cache-tokens"),
    TgiFlag(name="max-waiting-tokens", kind=ANY_NUMBER, default=20, idle=_CONTINUOUS),
    _same("max-batch-size"),
    TgiFlag(name="cuda-graphs", idle=_NO_KERNELS),
    TgiFlag(name="hostname", sets="host", default="0.0.0.0"),
    _same("port", first=("AIP_HTTP_PORT",)),
    TgiFlag(
        name="prometheus-port",
        kind=whole_number(0, 65535),
        default=9000,
        idle="metrics are on the main port, at /metrics, as in TGI",
    ),
    TgiFlag(
        name="shard-uds-path",
        default="/tmp/text-generation-server",
        idle=_NO_SHARDS,
    ),
    TgiFlag(name="master-addr", default="localhost", idle=_NO_SHARDS),
    TgiFlag(name="master-port", kind=ANY_NUMBER, default=29500, idle=_NO_SHARDS),
    TgiFlag(
        name="huggingface-hub-cache",
        kind=FOLDER,
        exports="HF_HUB_CACHE",
        help="where downloads are kept",
    ),
    TgiFlag(
        name="weights-cache-override",
        refused="give the folder that holds the weights as the model",
    ),
    TgiFlag(name="disable-custom-kernels", kind=SWITCH, default=False, idle=_NO_KERNELS),
    TgiFlag(
        name="cuda-memory-fraction",
        kind=number(0),
        default=1.0,
        idle="the size of the cache can be given, with --max-batch-total-tokens",
    ),
    TgiFlag(
        name="rope-scaling",
        kind=NAME,
        refused="set rope_scaling in the model's config.json",
    ),
    TgiFlag(
        name="rope-factor", kind=number(0), refused="set rope_scaling in the model's config.json"
    ),
    _same("json-output"),
    _same("otlp-endpoint"),
    _same("otlp-service-name"),
    _same("cors-allow-origin"),
    _same("api-key"),
    _same("watermark-gamma"),
    _same("watermark-delta"),
    TgiFlag(name="ngrok", kind=SWITCH, default=False, idle=_NO_TUNNEL),
    TgiFlag(name="ngrok-authtoken", idle=_NO_TUNNEL),
    TgiFlag(name="ngrok-edge", idle=_NO_TUNNEL),
    TgiFlag(name="tokenizer-config-path", sets="chat-template"),
    _same("disable-grammar-support"),
    _same("max-client-batch-size"),
    _same("lora-adapters"),
    TgiFlag(
        name="usage-stats",
        default="on",
        idle="nothing is ever reported to anybody",
    ),
    _same("payload-limit"),
    TgiFlag(
        name="enable-prefill-logprobs",
        kind=SWITCH,
        default=False,
        idle="they cost nothing unless a request asks for them, so they need no switch",
    ),
    _same("graceful-termination-timeout"),
)
"""In TGI's order."""

SHORT = {"port": "-p", "graceful-termination-timeout": "-g"}

ALSO = {
    "prefix-cache": ("PREFIX_CACHING",),
    "compute-type": ("COMPUTE_TYPE",),
    "max-image-fetch-size": ("MAX_IMAGE_FETCH_SIZE",),
}
"""TGI's variables for options that are no flags of TGI."""

IDLE_VARIABLES = {
    "ATTENTION": _NO_KERNELS,
    "PREFILL_CHUNKING": _CONTINUOUS,
    "USE_FLASH_ATTENTION": _NO_KERNELS,
    "TGI_WIGGLE_ROOM": "the cache is sized by what memory the backend finds",
    "REQUEST_LOGPROBS": "a request that wants log-probabilities gets them",
    "DISABLE_EXLLAMA": _NO_KERNELS,
    "EXLLAMA_VERSION": _NO_KERNELS,
    "USE_CUTLASS_W8A8": _NO_KERNELS,
    "LOG_COLORIZE": "log lines have no colours",
}
"""Variables of TGI that are no flags, and why they do nothing. Those of one device only are in
`BackendSpec.idle_variables`."""
