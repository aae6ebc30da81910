"""`tgi watermark detect`: counts the green pairs of a text.

In a text without the mark about gamma of them are green; how far it is off, in standard deviations,
is the z-score.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tgi_core.contract import CommandTools
from tgi_core.errors import UsageError
from tgi_plugin_watermark_kgw.green import GreenList

_FEWEST_PAIRS = 16
"""With fewer not even an all green text has a z-score of 4 (gamma 0.5)."""
_NOT_FOUND = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a text shows."""

    tokens_scored: int
    green_fraction: float
    z_score: float
    p_value: float
    """How often a text without the mark would show as much."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tgi watermark`."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    detect = commands.add_parser(
        "detect",
        help="tell whether a text is marked",
        description="Exit status: 0 if the text is marked, 1 if not, 2 for anything else.",
    )
    detect.add_argument("model", help="what the text was generated with, as for tgi serve")
    detect.add_argument("file", nargs="?", type=Path, help="UTF-8; default: standard input")
    detect.add_argument(
        "--gamma", type=float, default=0.5, help="the server's --watermark-gamma (default: 0.5)"
    )
    detect.add_argument(
        "--key",
        type=int,
        default=15485863,
        help="the server's --watermark-key (default: TGI's, 15485863)",
    )
    detect.add_argument(
        "--threshold", type=float, default=4.0, help="marked from this z-score on (default: 4)"
    )
    detect.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, tools: CommandTools) -> int:
    """Prints what a text shows.

    Returns:
        0 if it is marked, 1 if not.

    Raises:
        UsageError: an argument is out of range, or the text too short or no text.
    """
    if not 0 < args.gamma < 1:
        raise UsageError(f"--gamma {args.gamma} must be a number between 0 and 1.")
    if not 0 <= args.key < 2**63:
        raise UsageError(f"--key {args.key} must be a whole number from 0 to 2**63 - 1.")
    text = _read(args.file)
    tokenizer = tools.load_tokenizer(args.model)
    score = score_tokens(tokenizer.encode(text, add_special_tokens=False), args.gamma, args.key)
    is_marked = score.z_score >= args.threshold
    if args.json:
        print(json.dumps({**asdict(score), "is_marked": is_marked}))
    else:
        print(f"tokens scored   {score.tokens_scored}")
        print(f"green fraction  {score.green_fraction:.3f}, {args.gamma:g} without a mark")
        print(f"z-score         {score.z_score:.2f}")
        print(f"p-value         {score.p_value:.3g}")
        print(f"verdict         {'marked' if is_marked else 'no mark found'}")
    return 0 if is_marked else _NOT_FOUND


def score_tokens(tokens: Sequence[int], gamma: float, key: int) -> Score:
    """Scores each pair of neighbours once: a text that repeats itself shows no more by that.

    Raises:
        UsageError: there are too few pairs.
    """
    pairs = set(pairwise(tokens))
    if len(pairs) < _FEWEST_PAIRS:
        raise UsageError(
            f"the text has {len(pairs)} different pairs of tokens, and it takes "
            f"{_FEWEST_PAIRS} to tell anything: give a longer text."
        )
    green_list = GreenList(gamma, key)
    green = sum(green_list.holds(*pair) for pair in pairs)
    z = (green - gamma * len(pairs)) / math.sqrt(len(pairs) * gamma * (1 - gamma))
    return Score(
        tokens_scored=len(pairs),
        green_fraction=green / len(pairs),
        z_score=z,
        p_value=math.erfc(z / math.sqrt(2)) / 2,
    )


def _read(file: Path | None) -> str:
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return data.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file or 'the standard input'} holds no UTF-8: {error}.") from error
