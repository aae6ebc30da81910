"""The StepBackend: sequences, blocks and steps of one compiled model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from tgi_backend_openvino.adapters import (
    AdapterBank,
    add_low_rank,
    linear_nodes,
    linear_shape,
)
from tgi_backend_openvino.cache import BlockCache, block_bytes, block_tokens
from tgi_backend_openvino.device import (
    PRECISIONS,
    choose_device,
    choose_dtype,
    choose_threads,
)
from tgi_backend_openvino.exported import read_exported
from tgi_backend_openvino.families import is_exported
from tgi_backend_openvino.form import MANIFEST, read_manifest
from tgi_backend_openvino.graph import GraphFacts, cache_names, read_graph
from tgi_backend_openvino.inference import Inference
from tgi_backend_openvino.mapped import give_back
from tgi_backend_openvino.merged import merge_products
from tgi_backend_openvino.parts import part_of
from tgi_backend_openvino.quantize import check_quantization
from tgi_backend_openvino.store import Converted, converted, default_folder
from tgi_core.contract import (
    AdapterRows,
    BackendStats,
    BlockPool,
    BlockTables,
    Capabilities,
    DType,
    HostLogits,
    LoadRequest,
    LoraAdapter,
    PendingLogits,
    Progress,
    Step,
    available_bytes,
    choose_sizes,
    warm_up_with,
)
from tgi_core.errors import BadModel, UsageError

_OPTIONS = frozenset({"cache_dir"})
_CACHE_DTYPES = ("u8",)
_LEAST_TOKENS = 4
"""In a step."""
_WARM_UP_LENGTHS = (64, 1)
_MAX_ADAPTER_RANK = 256


@dataclass(frozen=True, slots=True)
class _Loaded:
    """All that exists between load and close."""

    inference: Inference
    cache: BlockCache
    """One block more than the tables know: the last one is for idle rows."""
    tables: BlockTables
    block_tokens: int
    adapters: AdapterBank | None
    """None if the graph does not say which layers adapters may change."""
    max_adapter_rank: int
    reference: str
    capabilities: Capabilities


class OpenVinoBackend:
    """Satisfies `StepBackend`."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._converted: Converted | None = None

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Converts the model if need be, and compiles it; see `StepBackend.load`.

        `dtype` None means float32 if the checkpoint is, else bfloat16 where the device computes
        it. The option `cache_dir` says where converted models are kept.
        """
        _refuse_unknown(request)
        core = ov.Core()
        device = choose_device(core, request.device)
        self._converted = _convert(request, progress)
        graph, facts = _read(core, request.model.path, self._converted)
        dtype = choose_dtype(core, device, request.dtype, facts.weights)
        progress("compiling the model", 0, 1)
        properties = _properties(request, device, dtype)
        linears = linear_nodes(graph, facts.linears)
        shapes = {name: linear_shape(node) for name, node in linears.items()}
        merge_products(graph, linears)
        compiled = core.compile_model(graph, device, properties)
        # the graph and its file are a second copy of what compiling has rearranged
        del graph, linears
        weights = _folder(request.model.path, self._converted)
        give_back(weights)
        progress("compiling the model", 1, 1)
        inputs = {name: port for port in compiled.inputs for name in port.get_names()}
        caches = [inputs[name] for layer in range(facts.num_layers) for name in cache_names(layer)]
        grain = block_tokens(caches[1])
        sizes = choose_sizes(
            request,
            cell_bytes=block_bytes(caches) // grain,
            block_tokens=grain,
            free_bytes=available_bytes(),
            longest=facts.longest,
        )
        cache = BlockCache(caches, sizes.num_blocks + 1)
        cache.clean(np.array([sizes.num_blocks], np.int32))

        def compile_adapted() -> Inference:
            graph, facts = _read(core, request.model.path, self._converted)
            add_low_rank(graph, linear_nodes(graph, facts.linears))
            adapted = core.compile_model(graph, device, properties)
            give_back(weights)
            return Inference(cache.request_of(adapted))

        tables = BlockTables(
            BlockPool(sizes.num_blocks), grain, sizes.max_sequences, sizes.max_sequence_tokens
        )
        capabilities = replace(
            sizes.capabilities(f"OpenVINO on {device}", facts.vocab_size, grain),
            adapters=AdapterRows.ROW if shapes else AdapterRows.NONE,
        )
        self._loaded = _Loaded(
            inference=Inference(cache.request_of(compiled)),
            cache=cache,
            tables=tables,
            block_tokens=grain,
            adapters=AdapterBank(shapes, compile_adapted) if shapes else None,
            max_adapter_rank=request.max_adapter_rank or _MAX_ADAPTER_RANK,
            reference=request.model.reference,
            capabilities=capabilities,
        )
        return capabilities

    def warm_up(self, progress: Progress) -> None:
        """A prefill and a decode step, so that kernels are chosen and weights are in memory."""
        warm_up_with(self, self._here().capabilities, _WARM_UP_LENGTHS, progress)

    def reserve(self, seq: int, length: int) -> bool:
        """Takes blocks, and copies the last one if it is shared."""
        loaded = self._here()
        before = loaded.tables.num_blocks(seq)
        copies = loaded.tables.reserve(seq, length)
        if copies is None:
            return False
        loaded.cache.copy(copies)
        after = loaded.tables.num_blocks(seq)
        if after > before:
            loaded.cache.clean(loaded.tables.rows(np.array([seq], np.int32))[0, before:after])
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Shares blocks; never refuses."""
        self._here().tables.fork(src, dst, length)
        return True

    def truncate(self, seq: int, length: int) -> None:
        """Gives back the blocks beyond `length`."""
        self._here().tables.truncate(seq, length)

    def release(self, seq: int) -> None:
        """Gives back all blocks."""
        self._here().tables.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """One inference over all rows side by side; see `StepBackend.step`.

        Rows with adapters are computed after the others, by their own graph.
        """
        loaded = self._here()
        if step.adapter is None:
            logits = loaded.inference.run(_inputs(step, loaded), len(step.out))
        else:
            assert loaded.adapters is not None, "the capabilities claim no adapters"
            logits = np.empty((len(step.out), loaded.capabilities.vocab_size), np.float32)
            adapted = step.adapter > 0
            if not adapted.all():
                part, theirs = part_of(step, ~adapted)
                logits[theirs] = loaded.inference.run(_inputs(part, loaded), len(part.out))
            if adapted.any():
                part, theirs = part_of(step, adapted)
                inputs = _inputs(part, loaded)
                places = np.repeat(step.adapter[adapted], part.n)
                idle = len(inputs["input_ids"]) - len(places)
                inference = loaded.adapters.inference_for(_extended(places, idle, places[0]))
                logits[theirs] = inference.run(inputs, len(part.out))
        loaded.tables.advance(step.seq, step.n)
        return HostLogits(logits)

    def read_adapter(self, path: Path) -> LoraAdapter:
        """Reads a folder of PEFT; see `HoldsAdapters.read_adapter`."""
        loaded = self._here()
        assert loaded.adapters is not None, "the capabilities claim no adapters"
        return loaded.adapters.read(path, max_rank=loaded.max_adapter_rank, model=loaded.reference)

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """Makes its matrices inputs of the second graph; see `HoldsAdapters.set_adapter`."""
        loaded = self._here()
        assert loaded.adapters is not None, "the capabilities claim no adapters"
        # only `read_adapter` makes them
        assert adapter is None or isinstance(adapter, LoraAdapter)
        loaded.adapters.put(place, adapter)

    def stats(self) -> BackendStats:
        """Cells in use, and the memory of the blocks that were ever used."""
        loaded = self._here()
        return BackendStats(
            cache_tokens_used=loaded.tables.used_blocks * loaded.block_tokens,
            memory_bytes=loaded.cache.num_bytes,
        )

    def close(self) -> None:
        """Drops model and cache."""
        self._loaded = None
        if self._converted is not None:
            self._converted.release()
            self._converted = None

    def _here(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


def _inputs(step: Step, loaded: _Loaded) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
    """The step as OpenVINO's inputs, caches left out."""
    table = loaded.tables.rows(step.seq)
    # a graph without any wanted token would have nothing to compute: one is thrown away
    out = step.out if len(step.out) else np.zeros(1, np.int32)
    if step.num_tokens == 1:
        return _beside_idle_rows(step, table[0], out, loaded)
    lengths = step.past + step.n
    blocks = -(-lengths // loaded.block_tokens)
    return {
        "input_ids": step.tokens.astype(np.int64),
        "position_ids": step.token_positions().astype(np.int64),
        "sampled_tokens_indices": out.astype(np.int64),
        "past_lens": step.past,
        "subsequence_begins": step.row_begins(),
        "block_indices": table[np.arange(table.shape[1]) < blocks[:, None]],
        "block_indices_begins": np.append(0, np.cumsum(blocks)).astype(np.int32),
        "max_context_len": np.array(lengths.max(), np.int32),
    }


def _beside_idle_rows(
    step: Step, blocks: NDArray[np.int32], out: NDArray[np.int32], loaded: _Loaded
) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
    """A step of a single token, with rows beside it that nobody reads.

    Alone it would take a kernel that rounds in another way than all others do, so that a greedy
    token could depend on whether the row has neighbours.
    """
    past, idle = int(step.past[0]), _LEAST_TOKENS - 1
    num_blocks = past // loaded.block_tokens + 1
    return {
        "input_ids": np.array([step.tokens[0], *[0] * idle], np.int64),
        "position_ids": np.array([past, *[0] * idle], np.int64),
        "sampled_tokens_indices": out.astype(np.int64),
        "past_lens": np.array([past, *[0] * idle], np.int32),
        "subsequence_begins": np.arange(idle + 2, dtype=np.int32),
        "block_indices": _extended(blocks[:num_blocks], idle, loaded.cache.num_blocks - 1),
        "block_indices_begins": np.array([0, *range(num_blocks, num_blocks + idle + 1)], np.int32),
        "max_context_len": np.array(past + 1, np.int32),
    }


def _extended(array: NDArray[np.int32], count: int, value: int) -> NDArray[np.int32]:
    return np.append(array, np.full(count, value, np.int32))


def _convert(request: LoadRequest, progress: Progress) -> Converted | None:
    """The model in the store; None if its folder is served as it is."""
    folder = request.model.path
    if not (folder / MANIFEST).is_file() and not is_exported(folder):
        chosen = request.options.get("cache_dir")
        store = Path(chosen).expanduser() if chosen else default_folder()
        return converted(folder, request.quantize, store, progress)
    if request.quantize is not None:
        raise UsageError(
            f"{folder} was converted already: quantize when you convert it, or give the folder "
            "that it was made of."
        )
    return None


def _folder(given: Path, made: Converted | None) -> Path:
    """Where the weights that are served lie."""
    return (made.folder if made is not None else given).resolve()


def _read(core: ov.Core, folder: Path, made: Converted | None) -> tuple[ov.Model, GraphFacts]:
    if made is not None:
        return read_graph(core, made.folder, made.manifest)
    if is_exported(folder):
        return read_exported(core, folder)
    try:
        return read_graph(core, folder, read_manifest(folder))
    except BadModel as error:
        raise BadModel(f"{error} Convert the model again with `tgi convert`.") from error


def _properties(request: LoadRequest, device: str, dtype: DType) -> dict[str, str | int]:
    precision = PRECISIONS[dtype]
    cache_precision = request.kv_cache_dtype or precision
    num_threads = choose_threads(device, dtype, request.num_threads)
    properties: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # pinned threads cannot make room: two servers of one thread would share the first core.
        # Where all processors are taken there is no room to make, and pinned ones are faster
        "ENABLE_CPU_PINNING": num_threads is None,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": cache_precision,
    }
    if num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    return properties


def _refuse_unknown(request: LoadRequest) -> None:
    unknown = sorted(set(request.options) - _OPTIONS)
    if unknown:
        raise UsageError(
            f"the openvino backend has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(_OPTIONS))}."
        )
    if request.kv_cache_dtype not in (None, *_CACHE_DTYPES):
        raise UsageError(
            f"--kv-cache-dtype {request.kv_cache_dtype} is not known to the openvino backend; it "
            f"knows {', '.join(_CACHE_DTYPES)}."
        )
    if request.quantize is not None:
        check_quantization(request.quantize)
    if request.num_threads is not None and request.num_threads < 1:
        raise UsageError(f"num_threads is {request.num_threads}; it must be at least 1.")
