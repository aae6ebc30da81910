"""What drafts bring: the same prompts with and without them, in turn, in one engine process each.

    python -m tests.bench.speculation MODEL --backend openvino --streams 1

Two kinds of work. `repeats`: edits of code and text, whose answers repeat most of the prompt.
`new`: stories at a temperature, which repeat nothing. Both modes must give the same tokens but
where rounding decides, and the share of equal answers is shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

from tgi_core.builtin import local_source, ngram
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    DType,
    LoadRequest,
    ModelFiles,
    Request,
    SamplingParams,
    StepStats,
    StopRule,
    TokenEvent,
    Tokenizer,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting
from tgi_core.engine.step_engine import StepEngine
from tgi_core.plugin.manager import Plugins
from tgi_core.text import hf_plugin
from tgi_core.text.chat import ChatTemplate, Message

CODE = '''\
class Inventory:
    """Counts the goods of a shop."""

    def __init__(self) -> None:
        self.counts = {}
        self.prices = {}

    def add(self, name, count, price):
        """Puts goods on the shelf."""
        if count <= 0:
            raise ValueError("count must be positive")
        self.counts[name] = self.counts.get(name, 0) + count
        self.prices[name] = price

    def remove(self, name, count):
        """Takes goods from the shelf."""
        if self.counts.get(name, 0) < count:
            raise ValueError("there are not enough goods")
        self.counts[name] -= count

    def total(self):
        """What all goods are worth."""
        return sum(self.counts[name] * self.prices[name] for name in self.counts)
'''
TEXT = """\
The lighthouse at the end of the cape was built in 1871 by fishermen of the village, who paid \
for it themselves. For sixty years its keeper was a man named Olav Brekke, and after him his \
daughter Ingrid. The lamp burned oil until 1934, when a cable was laid from the mainland. During \
the war the lighthouse was dark, and three ships were lost on the reef. It was automated in \
1982, and since then nobody has lived there. The village bought it back in 2009 and made it a \
museum, which about four thousand people visit each summer.
"""
REPEATS = (
    f"Repeat this code, and change nothing but the name Inventory to Stock:\n\n{CODE}",
    f"Add a type hint to the parameter `name` and write the whole code again:\n\n{CODE}",
    f"Correct the mistakes in this text, if there are any, and write it again:\n\n{TEXT}",
    f"Summarize this text. Use its own sentences:\n\n{TEXT}",
)
NEW = (
    "Write a story about a fox who wants to learn to swim.",
    "Write a letter from a sailor to his brother.",
    "What might cities look like in two hundred years?",
    "Describe a market on a rainy morning.",
)


@dataclass(slots=True)
class Run:
    """What one way of running took."""

    seconds: float = 0.0
    processor_s: float = 0.0
    stats: StepStats = field(default_factory=StepStats)
    outputs: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.outputs.values()))

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    def add(self, other: Run, turn: int) -> None:
        self.seconds += other.seconds
        self.processor_s += other.processor_s
        self.stats = other.stats.after(self.stats)
        self.outputs |= {f"{turn}/{k}": v for k, v in other.outputs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--max-new", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    plugins = Plugins(builtins=(local_source, hf_plugin, ngram))
    files = plugins.model_source(args.model)
    tokenizer = plugins.load_tokenizer(files)
    assert tokenizer is not None, "the model needs a tokenizer.json"
    engines = {
        num: engine(plugins, files, args.backend, args.dtype, num) for num in (0, args.drafts)
    }
    print(f"{args.backend}, {args.dtype}, {args.streams} streams, drafts of {args.drafts}")
    print(
        "| work | tokens/s without | with | ratio | by processor time | steps a token | with | "
        "drafts right | equal answers |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for work, prompts, temperature in (("repeats", REPEATS, 0.0), ("new", NEW, 1.0)):
        wanted = requests(tokenizer, prompts, args.streams, temperature, args.max_new)
        runs = {num: Run() for num in engines}
        # the machine may be shared: what is compared runs within seconds of each other
        groups = [wanted[i : i + args.streams] for i in range(0, len(wanted), args.streams)]
        for turn in range(args.rounds):
            for group in groups:
                for num, made in engines.items():
                    runs[num].add(run(made, group), turn)
        print(row(work, runs[0], runs[args.drafts]), flush=True)
    return 0


def engine(
    plugins: Plugins, files: ModelFiles, backend: str, dtype: str, num_drafts: int
) -> StepEngine:
    made = StepEngine(
        plugins.backend(files, backend).create(),  # type: ignore[arg-type]
        FirstComeFirstServed(),
        EngineLimits(num_drafts=num_drafts, prefix_caching=False),
        drafting=Drafting(plugins.speculators()["ngram"]),
    )
    made.start(LoadRequest(model=files, dtype=DType(dtype)), lambda *a, **k: None)
    return made


def requests(
    tokenizer: Tokenizer, prompts: tuple[str, ...], streams: int, temperature: float, max_new: int
) -> list[Request]:
    """Each prompt as often as there are streams, with seeds of their own."""
    template = ChatTemplate(
        tokenizer.chat_template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
    )
    made = []
    for i in range(len(prompts) * streams):
        text = template.render([Message(role="user", content=prompts[i % len(prompts)])])
        made.append(
            Request(
                request_id=f"{i}",
                prompt=tuple(tokenizer.encode(text.text, add_special_tokens=False)),
                sampling=SamplingParams(temperature=temperature, seed=i),
                stop=StopRule(max_new_tokens=max_new, eos_token_ids=tokenizer.eos_token_ids),
            )
        )
    return made


def run(made: StepEngine, wanted: list[Request]) -> Run:
    """All at once; only steps that compute no prompt are timed."""
    before = made.stats()
    found = Run(outputs={r.request_id: [] for r in wanted})
    for request in wanted:
        made.submit(request)
    while made.busy:
        prefills = made.stats().prefill.steps
        begin, processor = time.perf_counter(), time.process_time()
        events = made.poll(0)
        if made.stats().prefill.steps == prefills:
            found.seconds += time.perf_counter() - begin
            found.processor_s += time.process_time() - processor
        for event in events:
            if isinstance(event, TokenEvent):
                found.outputs[event.request_id] += event.tokens
    after = made.stats()
    found.stats = StepStats(
        steps=after.decode.steps - before.decode.steps,
        drafted_tokens=after.drafted_tokens - before.drafted_tokens,
        accepted_tokens=after.accepted_tokens - before.accepted_tokens,
    )
    return found


def row(work: str, plain: Run, drafted: Run) -> str:
    stats = drafted.stats
    right = stats.accepted_tokens / max(stats.drafted_tokens, 1)
    equal = sum(plain.outputs[k] == drafted.outputs[k] for k in plain.outputs)
    processor = plain.processor_s / plain.num_tokens, drafted.processor_s / drafted.num_tokens
    return (
        f"| {work} | {plain.tokens_per_s:.1f} | {drafted.tokens_per_s:.1f} | "
        f"{drafted.tokens_per_s / plain.tokens_per_s:.2f} | {processor[0] / processor[1]:.2f} | "
        f"{plain.stats.steps / plain.num_tokens:.2f} | {stats.steps / drafted.num_tokens:.2f} | "
        f"{right:.0%} of {stats.drafted_tokens} | {equal} of {len(plain.outputs)} |"
    )


if __name__ == "__main__":
    sys.exit(main())
