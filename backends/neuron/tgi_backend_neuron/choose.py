"""Which compiled model serves a request to load, and what to run if there is none. No device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tgi_backend_neuron.compiled import CompiledFacts, is_compiled, read_compiled
from tgi_backend_neuron.store import compiled_of, default_folder
from tgi_core.contract import LoadRequest
from tgi_core.errors import UnsupportedModel, UsageError

_OPTIONS = frozenset({"cache_dir"})
_ROWS, _TOKENS = 4, 4096
"""What is compiled if nobody says otherwise."""


def choose(request: LoadRequest) -> tuple[Path, CompiledFacts]:
    """The folder itself if it is compiled; else the best that was compiled of it.

    Raises:
        UsageError: a wish that compiled graphs cannot grant, or an unknown option.
        UnsupportedModel: nothing was compiled that grants the wishes; says what to run.
        BadModel: the compiled folder is damaged.
    """
    _refuse_unknown(request)
    folder = request.model.path
    if is_compiled(folder):
        facts = read_compiled(folder)
        refused = mismatch(request, facts)
        if refused:
            raise UsageError(f"{folder} is compiled for {facts.describe()}, and {refused}.")
        return folder, facts
    found = compiled_of(store_of(request.options), folder)
    for made, facts in found.items():
        if mismatch(request, facts) is None:
            return made, facts
    there = "; ".join(facts.describe() for facts in found.values())
    raise UnsupportedModel(
        f"{request.model.reference} has not been compiled for Neuron"
        + (f" as it is wanted (there is: {there})" if there else "")
        + f". Compile it once, which takes minutes to an hour: `{export_command(request)}`."
    )


def mismatch(request: LoadRequest, facts: CompiledFacts) -> str | None:
    """Why compiled graphs cannot do what is asked for; None if they can."""
    longest, slots = request.max_sequence_tokens, facts.num_slots
    if (request.max_rows or 0) > slots:
        return f"--max-batch-size {request.max_rows} needs more slots"
    if (longest or 0) > facts.slot_tokens:
        return f"--max-total-tokens {longest} needs longer ones"
    if (request.cache_tokens or 0) > slots * facts.slot_tokens:
        return f"--cache-tokens {request.cache_tokens} is more than its {slots} slots hold"
    if request.num_shards not in (None, facts.num_cores):
        return f"--num-shard {request.num_shards} is another number of cores"
    if request.dtype is not None and request.dtype.value != facts.dtype:
        return f"--dtype {request.dtype.value} is another one"
    return None


def export_command(request: LoadRequest) -> str:
    """What makes the model that is wanted."""
    words = [
        f"tgi neuron-export {request.model.path}",
        f"--max-batch-size {request.max_rows or _ROWS}",
        f"--max-total-tokens {request.max_sequence_tokens or _TOKENS}",
    ]
    if request.num_shards is not None:
        words.append(f"--num-shard {request.num_shards}")
    if request.dtype is not None:
        words.append(f"--dtype {request.dtype.value}")
    return " ".join(words)


def store_of(options: Mapping[str, str]) -> Path:
    """Where compiled models are kept."""
    chosen = options.get("cache_dir")
    return Path(chosen).expanduser() if chosen else default_folder()


def _refuse_unknown(request: LoadRequest) -> None:
    unknown = sorted(set(request.options) - _OPTIONS)
    if unknown:
        raise UsageError(
            f"the neuron backend has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(_OPTIONS))}."
        )
    if request.device not in (None, "neuron"):
        raise UsageError(
            f"the neuron backend has no device {request.device}: leave --device out, and choose "
            "cores with NEURON_RT_VISIBLE_CORES."
        )
    if request.quantize is not None:
        raise UsageError("optimum-neuron compiles no quantized models: leave --quantize out.")
    if request.kv_cache_dtype is not None:
        raise UsageError(
            "compiled models keep keys and values in their own dtype: leave --kv-cache-dtype out."
        )
    for name in ("max_rows", "max_sequence_tokens", "max_step_tokens", "cache_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
