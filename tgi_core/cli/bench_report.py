"""The numbers of `tgi bench`: what is computed from the replies, and how it is shown.

Pure: neither sends nor waits. Latencies are of requests that succeeded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.cli.bench_client import Reply
from tgi_core.cli.bench_load import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One load in numbers; None where no request gave any."""

    streams: int
    requests: int
    errors: int
    duration_s: float
    prompt_tokens: int
    """As the server counts them; 0 if it does not."""
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    first_token_p50_s: float | None
    first_token_p99_s: float | None
    inter_token_p50_s: float | None
    inter_token_p99_s: float | None
    end_to_end_p50_s: float | None


def summarize(load: Load) -> Summary:
    """The numbers of one load."""
    good = [reply for reply in load.replies if not reply.error]
    output_tokens = sum(reply.output_tokens for reply in good)
    first = sorted(r.first_s - r.start_s for r in good if r.first_s is not None)
    gaps = sorted(gap for reply in good for gap in reply.gaps_s)
    whole = sorted(reply.end_s - reply.start_s for reply in good)
    return Summary(
        streams=load.streams,
        requests=len(load.replies),
        errors=len(load.replies) - len(good),
        duration_s=load.duration_s,
        prompt_tokens=sum(reply.prompt_tokens or 0 for reply in good),
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / load.duration_s,
        requests_per_s=len(good) / load.duration_s,
        first_token_p50_s=percentile(first, 0.5),
        first_token_p99_s=percentile(first, 0.99),
        inter_token_p50_s=percentile(gaps, 0.5),
        inter_token_p99_s=percentile(gaps, 0.99),
        end_to_end_p50_s=percentile(whole, 0.5),
    )


def percentile(ascending: Sequence[float], fraction: float) -> float | None:
    """The smallest value that at least this fraction of all values does not exceed."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(fraction * len(ascending)) - 1)]


def table(summaries: Sequence[Summary]) -> str:
    """A Markdown table, aligned for reading as it is; latencies in milliseconds."""
    lines = [
        (
            "streams",
            "requests",
            "errors",
            "tokens/s",
            "requests/s",
            "first token p50 ms",
            "p99 ms",
            "inter-token p50 ms",
            "p99 ms",
            "end to end p50 ms",
        )
    ]
    for s in summaries:
        lines.append(
            (
                str(s.streams),
                str(s.requests),
                str(s.errors),
                f"{s.output_tokens_per_s:.1f}",
                f"{s.requests_per_s:.2f}",
                _milliseconds(s.first_token_p50_s),
                _milliseconds(s.first_token_p99_s),
                _milliseconds(s.inter_token_p50_s),
                _milliseconds(s.inter_token_p99_s),
                _milliseconds(s.end_to_end_p50_s),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "| " + " | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def errors(replies: Sequence[Reply]) -> list[str]:
    """One line for each kind of failure, the most frequent first."""
    kinds = Counter(reply.error for reply in replies if reply.error)
    return [f"{number} x {error}" for error, number in kinds.most_common()]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
