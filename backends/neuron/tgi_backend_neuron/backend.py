"""The StepBackend: slots and steps of one compiled model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_backend_neuron.choose import choose
from tgi_backend_neuron.compiled import CompiledFacts
from tgi_backend_neuron.sampled import ChosenTokens, neutral_params, sampling_params
from tgi_backend_neuron.slots import Slots
from tgi_backend_neuron.vendor import CompiledModel
from tgi_core.contract import (
    BackendStats,
    Capabilities,
    Fork,
    HostLogits,
    LoadRequest,
    LogitsRows,
    PendingLogits,
    PendingTokens,
    Progress,
    SampledTokens,
    SamplingBatch,
    Step,
)
from tgi_core.errors import Unsupported
from tgi_core.sampling.reference import sample


@dataclass(frozen=True, slots=True)
class _Loaded:
    """All that exists between load and close."""

    model: CompiledModel
    facts: CompiledFacts
    slots: Slots
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class _Sampled:
    """Satisfies PendingTokens; core's own sampler has chosen."""

    tokens: SampledTokens

    def wait(self) -> SampledTokens:
        return self.tokens


class NeuronBackend:
    """Satisfies `StepBackend` and `SamplesOnDevice`."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Loads a compiled folder, or what was compiled of the folder before.

        Nothing is compiled here: `tgi neuron-export` does it, once. `num_shards` are cores, and
        were compiled too. The option `cache_dir` says where compiled models are kept.
        """
        folder, facts = choose(request)
        progress("loading the compiled model", 0, 1)
        model = CompiledModel(folder, facts)
        progress("loading the compiled model", 1, 1)
        capabilities = _capabilities(facts, request)
        slots = Slots(capabilities.max_sequences, facts.slot_tokens)
        self._loaded = _Loaded(model, facts, slots, capabilities)
        return capabilities

    def warm_up(self, progress: Progress) -> None:
        """Runs each graph once; what it writes to slots lies beyond what they hold."""
        loaded = self._here()
        num = loaded.facts.num_slots
        params, none = neutral_params(num), np.zeros(num, np.int32)
        progress("warming up", 0, 2, "graphs")
        loaded.model.prefill(0, np.zeros(2, np.int32), params[:1])
        progress("warming up", 1, 2, "graphs")
        loaded.model.decode(none, none, params)
        progress("warming up", 2, 2, "graphs")

    def reserve(self, seq: int, length: int) -> bool:
        """A slot has its room from the beginning."""
        return length <= self._here().capabilities.max_sequence_tokens

    def fork(self, src: int, dst: int, length: int) -> bool:
        """The capabilities exclude it: no graph copies a slot."""
        raise Unsupported("fork")

    def truncate(self, seq: int, length: int) -> None:
        """Later tokens overwrite what is dropped."""
        self._here().slots.truncate(seq, length)

    def release(self, seq: int) -> None:
        """The next prompt overwrites it."""
        self._here().slots.truncate(seq, 0)

    def step(self, step: Step) -> PendingLogits:
        """Prompts one after another, or one decode of all slots; see `StepBackend.step`."""
        loaded = self._here()
        _refuse(step, loaded)
        wanted = np.searchsorted(step.row_begins()[1:] - 1, step.out)
        run = _decode if step.num_tokens == step.num_rows else _prefill
        results = run(loaded, step, wanted)
        loaded.slots.advance(step)
        if loaded.facts.samples:
            return ChosenTokens(results[wanted].astype(np.int32))
        return HostLogits(results[wanted].astype(np.float32, copy=False))

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        """What the graph chose, or what core's own sampler does; see `SamplesOnDevice.sample`."""
        if isinstance(logits, ChosenTokens):
            return logits
        return _Sampled(sample(logits.numpy(), batch))

    def stats(self) -> BackendStats:
        """Cells that hold something."""
        return BackendStats(cache_tokens_used=int(self._here().slots.held.sum()))

    def close(self) -> None:
        """Drops the model; its cores are free when the process ends."""
        self._loaded = None

    def _here(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


def _capabilities(facts: CompiledFacts, request: LoadRequest) -> Capabilities:
    longest = min(request.max_sequence_tokens or facts.slot_tokens, facts.slot_tokens)
    rows = min(request.max_rows or facts.num_slots, facts.num_slots)
    step_tokens = max(request.max_step_tokens or facts.prompt_tokens, rows)
    cores = "1 core" if facts.num_cores == 1 else f"{facts.num_cores} cores"
    return Capabilities(
        device=f"neuron, {cores}",
        vocab_size=facts.vocab_size,
        max_sequences=facts.num_slots,
        max_rows=rows,
        max_step_tokens=step_tokens,
        max_sequence_tokens=longest,
        max_prefill_tokens=min(facts.prompt_tokens, longest, step_tokens),
        cache_tokens=facts.num_slots * facts.slot_tokens,
        cache_grain_tokens=facts.slot_tokens,
        fork=Fork.NONE,
        logits=LogitsRows.NONE if facts.samples else LogitsRows.LAST,
    )


def _refuse(step: Step, loaded: _Loaded) -> None:
    """What the runtime would take and compute wrongly: it cuts long prompts off without a word."""
    held, limits = loaded.slots.held, loaded.capabilities
    if step.num_rows > limits.max_rows:
        raise Unsupported("rows", f"{step.num_rows} rows in a graph of {limits.max_rows}")
    if (held[step.seq] != step.past).any():
        raise Unsupported("past", f"slots hold {held[step.seq]} tokens, not {step.past}")
    if step.num_tokens > step.num_rows:
        if (step.n == 1).any():
            raise Unsupported("mixed", "prompts and single tokens are different graphs")
        if step.past.any():
            raise Unsupported("chunked", "a prompt begins in the first cell of its slot")
        if step.n.max() > limits.max_prefill_tokens:
            most = limits.max_prefill_tokens
            raise Unsupported("prompt", f"{step.n.max()} tokens in a prefill graph of {most}")
    elif (step.past >= limits.max_sequence_tokens).any():
        raise Unsupported("length", f"no slot holds more than {limits.max_sequence_tokens} tokens")


def _prefill(loaded: _Loaded, step: Step, wanted: NDArray[np.intp]) -> NDArray[np.generic]:
    """One run a row. Of each row: (R, vocab) logits, or (R,) tokens."""
    begins = step.row_begins()
    params = _params(loaded.facts, step, wanted, step.num_rows)
    results = [
        loaded.model.prefill(seq, step.tokens[begin:end], params[row : row + 1])
        for row, (seq, begin, end) in enumerate(
            zip(step.seq.tolist(), begins[:-1], begins[1:], strict=True)
        )
    ]
    return np.concatenate(results)


def _decode(loaded: _Loaded, step: Step, wanted: NDArray[np.intp]) -> NDArray[np.generic]:
    """One run. Of each row: (R, vocab) logits, or (R,) tokens."""
    tokens, positions = loaded.slots.decode_inputs(step)
    params = _params(loaded.facts, step, step.seq[wanted], loaded.facts.num_slots)
    results: NDArray[np.generic] = loaded.model.decode(tokens, positions, params)[step.seq]
    return results


def _params(
    facts: CompiledFacts, step: Step, rows: NDArray[np.integer], num: int
) -> NDArray[np.float32]:
    """float32 (num, 3), those of a graph's rows whose tokens are wanted."""
    params = neutral_params(num)
    if step.sampling is not None:
        params[rows] = sampling_params(step.sampling, facts.most_top_k)
    return params
