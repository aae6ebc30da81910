"""`tgi serve MODEL`: flags to settings. What then happens is in `cli/run_server.py`."""

from __future__ import annotations

import argparse

from tgi_core.config.settings import (
    ModelSettings,
    PluginSettings,
    SchedulingSettings,
    ServerSettings,
    Settings,
)
from tgi_core.contract import DType
from tgi_core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, grouped by what they are about."""
    parser.add_argument("model", help="a Hugging Face folder or a GGUF file")

    model = parser.add_argument_group("model")
    model.add_argument("--backend", help="default: what fits the model and the machine")
    model.add_argument("--dtype", choices=[d.value for d in DType], help="default: the model's")
    model.add_argument("--quantize", help="what to make of the weights, such as int8")
    model.add_argument("--kv-cache-dtype", help="what keys and values are kept in, such as u8")
    model.add_argument("--device", help="a device of the backend; default: its first")
    model.add_argument("--max-total-tokens", type=_positive, help="longest prompt and output")
    model.add_argument("--max-batch-size", type=_positive, help="most sequences in one step")
    model.add_argument("--cache-tokens", type=_positive, help="size of the KV cache")
    model.add_argument("--threads", type=_positive, help="CPU threads; default: all cores")
    model.add_argument(
        "--backend-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the backend's own; may be repeated",
    )

    scheduling = parser.add_argument_group("scheduling")
    scheduling.add_argument("--max-step-tokens", type=_positive, help="token budget of a step")
    scheduling.add_argument("--max-chunk-tokens", type=_positive, help="longest chunk of a prompt")
    scheduling.add_argument("--no-prefix-cache", action="store_true", help="share no beginnings")
    scheduling.add_argument("--queue-policy", default="fcfs", help="default: fcfs")

    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    server.add_argument("--port", "-p", type=_port, default=3000, help="default: 3000")
    server.add_argument("--served-model-name", help="what clients see; default: MODEL")
    server.add_argument("--max-concurrent-requests", type=_positive, default=128)
    server.add_argument("--max-input-tokens", type=_positive, help="longest prompt")
    server.add_argument("--max-stop-sequences", type=_positive, default=4)
    server.add_argument("--max-top-n-tokens", type=_positive, default=5)
    server.add_argument("--max-client-batch-size", type=_positive, default=4)
    server.add_argument("--payload-limit", type=_positive, default=2_000_000, help="in bytes")
    server.add_argument(
        "--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default="INFO"
    )

    plugins = parser.add_argument_group("plugins")
    plugins.add_argument("--disable-plugin", action="append", default=[], metavar="NAME")
    plugins.add_argument("--no-plugins", action="store_true", help="only those of the core")


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop.

    Returns:
        0 after a clean end.

    Raises:
        SetupError: it cannot start.
    """
    from tgi_core.cli.run_server import run_server

    return run_server(settings(args))


def settings(args: argparse.Namespace) -> Settings:
    """Typed settings from parsed flags.

    Raises:
        UsageError: a flag's value is malformed.
    """
    return Settings(
        model=ModelSettings(
            reference=args.model,
            backend=args.backend,
            dtype=DType(args.dtype) if args.dtype else None,
            quantize=args.quantize,
            kv_cache_dtype=args.kv_cache_dtype,
            device=args.device,
            max_rows=args.max_batch_size,
            max_sequence_tokens=args.max_total_tokens,
            cache_tokens=args.cache_tokens,
            num_threads=args.threads,
            options=_options(args.backend_option),
        ),
        scheduling=SchedulingSettings(
            queue_policy=args.queue_policy,
            max_step_tokens=args.max_step_tokens,
            max_chunk_tokens=args.max_chunk_tokens,
            prefix_caching=not args.no_prefix_cache,
        ),
        plugins=PluginSettings(disabled=tuple(args.disable_plugin), only_builtin=args.no_plugins),
        server=ServerSettings(
            host=args.host,
            port=args.port,
            served_model_name=args.served_model_name,
            max_concurrent_requests=args.max_concurrent_requests,
            max_stop_sequences=args.max_stop_sequences,
            max_top_n_tokens=args.max_top_n_tokens,
            max_client_batch_size=args.max_client_batch_size,
            payload_limit=args.payload_limit,
            max_input_tokens=args.max_input_tokens,
            log_level=args.log_level,
        ),
    )


def _options(pairs: list[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--backend-option {pair!r} must have the form KEY=VALUE.")
        options[key] = value
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return number
