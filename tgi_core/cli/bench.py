"""`tgi bench`: puts load on any server that speaks OpenAI's streamed completions, and measures.

A closed loop: a number of streams, each sending its next request when the last one is answered.
Knows nothing of this project's own server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from tgi_core.cli.bench_client import Reply, Target
from tgi_core.cli.bench_load import Load, Span, Workload, run_load
from tgi_core.cli.bench_report import Summary, errors, summarize, table
from tgi_core.errors import UsageError

_REDRAW_S = 0.1
_BAR_WIDTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi bench`."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:3000", help="the server (default: %(default)s)")
    add("--model", help="what requests ask for (default: the first that the server lists)")
    add("--api-key", help="sent as a bearer token")
    add(
        "--streams",
        type=_counts,
        default=(1, 4, 16, 32),
        metavar="N,N,...",
        help="requests in flight, one load for each number (default: 1,4,16,32)",
    )
    add(
        "--prompt-tokens",
        type=_span,
        default=Span(low=32, high=512),
        metavar="LOW:HIGH",
        help="length of prompts in words of about a token, log-uniform (default: 32:512)",
    )
    add(
        "--output-tokens",
        type=_span,
        default=Span(low=16, high=128),
        metavar="LOW:HIGH",
        help="tokens to generate, uniform (default: 16:128)",
    )
    add(
        "--shared-prefix",
        type=int,
        default=0,
        metavar="TOKENS",
        help="words that all prompts of a load begin with, besides their own (default: 0)",
    )
    add(
        "--requests",
        type=_positive,
        metavar="N",
        help="requests in each load (default: 4 for each stream, at least 16)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="the same seed sends the same prompts, which a server may still have in its cache "
        "(default: 0)",
    )
    add(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask for the full length; --no-ignore-eos for servers that do not know the field",
    )
    add("--timeout", type=float, default=600.0, metavar="S", help="seconds until a request fails")
    add("--json", type=Path, metavar="FILE", help="write the results there too")


def run(args: argparse.Namespace) -> int:
    """Runs all loads, prints the table, and returns 1 if a request failed."""
    target = Target.parse(args.url, args.api_key)
    if args.json and not args.json.absolute().parent.is_dir():
        raise UsageError(f"--json {args.json}: there is no such folder.")
    workload = Workload(
        model=args.model or _first_model(target, args.api_key),
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
        shared_prefix=args.shared_prefix,
        ignore_eos=args.ignore_eos,
        seed=args.seed,
    )
    summaries: list[Summary] = []
    for streams in args.streams:
        requests = args.requests or max(16, 4 * streams)
        progress = _Progress(streams, requests)
        bodies = workload.bodies(streams, requests)
        load = _event_loop()(run_load(target, bodies, streams, args.timeout, progress.count))
        summaries.append(summarize(load))
        progress.finish(summaries[-1])
        for line in errors(load.replies):
            print(f"  {line}", file=sys.stderr)
    print(table(summaries))
    if args.json:
        result = {
            "url": args.url,
            "workload": asdict(workload),
            "loads": [asdict(summary) for summary in summaries],
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any(summary.errors for summary in summaries) else 0


def _event_loop() -> Callable[[Coroutine[Any, Any, Load]], Load]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    run: Callable[[Coroutine[Any, Any, Load]], Load] = uvloop.run
    return run


def _first_model(target: Target, api_key: str | None) -> str:
    url = f"{target.base}/models"
    request = Request(url, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        # no proxy: the load itself takes none either
        with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
            return str(json.load(answer)["data"][0]["id"])
    except URLError as error:
        raise UsageError(
            f"{url} does not answer: {error}. Start a server there, say --url, or say --model if "
            "the server lists none."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{url} lists no model; say --model.") from error


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _span(text: str) -> Span:
    low, _, high = text.partition(":")
    span = Span(low=int(low), high=int(high or low))
    if not 1 <= span.low <= span.high:
        raise argparse.ArgumentTypeError("LOW must be at least 1 and HIGH at least LOW")
    return span


class _Progress:
    """A bar where somebody watches; otherwise one line when the load is over."""

    def __init__(self, streams: int, requests: int) -> None:
        self._streams, self._requests = streams, requests
        self._done = self._failed = 0
        self._watched = sys.stderr.isatty()
        self._drawn_s = 0.0

    def count(self, reply: Reply) -> None:
        """One request more has ended."""
        self._done += 1
        self._failed += bool(reply.error)
        now_s = perf_counter()
        if self._watched and now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            bar = "#" * (_BAR_WIDTH * self._done // self._requests)
            text = f"{self._streams:4} streams [{bar:<{_BAR_WIDTH}}] {self._done}/{self._requests}"
            failed = f" {self._failed} failed" if self._failed else ""
            print(f"\r\033[K{text}{failed}", end="", file=sys.stderr, flush=True)

    def finish(self, summary: Summary) -> None:
        """The load is over."""
        wipe = "\r\033[K" if self._watched else ""
        print(
            f"{wipe}{summary.streams:4} streams: "
            f"{summary.requests} requests in {summary.duration_s:.1f} s, {summary.errors} failed, "
            f"{summary.output_tokens_per_s:.1f} tokens/s",
            file=sys.stderr,
            flush=True,
        )
