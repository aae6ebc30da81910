"""StepBackend on llama.cpp: sequences are llama.cpp's, in one pool of cells or in streams.

llama.cpp aborts the process on a batch that it does not like, so every step is checked here
before the C call. Does not sample and knows no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from tgi_backend_llamacpp.amx import buffer_choice
from tgi_backend_llamacpp.batch import Computed, DecodeBatch
from tgi_backend_llamacpp.gguf import read_model
from tgi_backend_llamacpp.llama_log import llama_log
from tgi_backend_llamacpp.loading import check_model, open_context, open_model
from tgi_backend_llamacpp.memory import Memory
from tgi_backend_llamacpp.options import parse_options
from tgi_backend_llamacpp.pool import Pool
from tgi_backend_llamacpp.sizes import cache_bytes_per_token, choose_sizes
from tgi_backend_llamacpp.streams import Streams
from tgi_core.contract import (
    ANY_LENGTH,
    BackendStats,
    Capabilities,
    Embedding,
    Fork,
    HostLogits,
    LoadRequest,
    LogitsRows,
    PendingLogits,
    Pooling,
    Progress,
    Step,
    available_bytes,
)
from tgi_core.errors import (
    BackendDead,
    BackendUnavailable,
    OutOfMemory,
    RowsFailed,
    Unsupported,
    UnsupportedModel,
)

_MOST_TOKENS_PER_DECODE = 2048
"""Larger steps are split: buffers of llama.cpp grow with the batch, its speed no more."""


class LlamaCppBackend:
    """Satisfies `StepBackend` and `Embeds`."""

    def __init__(self) -> None:
        self._resources = ExitStack()

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Checks the header, loads the file, sizes the cache and tries that it can be cut.

        Raises:
            UsageError: an option is unknown or wrong.
            BackendUnavailable: llama.cpp cannot decode on this CPU.
            BadModel, UnsupportedModel, DoesNotFit: as their names say.
        """
        options = parse_options(request)
        path = request.model.path
        header = read_model(path)
        buffers = buffer_choice()
        if not buffers.usable:
            raise BackendUnavailable(buffers.note)
        if buffers.note:
            llama_log().warn(buffers.note)
        with ExitStack() as stack:
            model = open_model(
                path,
                stack,
                progress,
                n_gpu_layers=options.n_gpu_layers,
                extra_buffers=buffers.extra_buffers,
            )
            check_model(path, model, header)
            gpu = llama.llama_supports_gpu_offload() and options.n_gpu_layers != 0
            # Of a sliding window llama.cpp gives away cells that only one sequence holds once
            # the window has passed them, even with swa_full; truncate and fork need them still.
            # So there each token belongs to a second sequence, which protects it.
            most_sequences = llama.llama_max_parallel_sequences()
            shadow = most_sequences // 2 if llama.llama_model_n_swa(model) > 0 else 0
            most_sequences = shadow or most_sequences
            per_token = cache_bytes_per_token(header, options)
            trained_tokens = llama.llama_model_n_ctx_train(model)
            sizes = choose_sizes(
                request,
                bytes_per_token=per_token,
                trained_tokens=trained_tokens,
                available_bytes=available_bytes(),
                most_sequences=most_sequences,
                # a token has one stream only, so no shadow; GPUs were never measured
                streams_allowed=not (shadow or gpu),
            )
            if sizes.max_sequence_tokens > trained_tokens:
                llama_log().warn(f"the model was trained on {trained_tokens} tokens at most")
            self._batch = DecodeBatch(min(sizes.max_step_tokens, _MOST_TOKENS_PER_DECODE), shadow)
            self._context = open_context(model, stack, sizes, options, n_batch=self._batch.capacity)
            self._memory: Memory = (
                Streams(self._context, num=sizes.num_streams, tokens=sizes.max_sequence_tokens)
                if sizes.num_streams
                else Pool(
                    self._context,
                    max_sequences=most_sequences,
                    max_sequence_tokens=sizes.max_sequence_tokens,
                    shadow=shadow,
                )
            )
            self._try_cache()
            self._resources = stack.pop_all()
        cells = llama.llama_n_ctx(self._context)
        self._memory_bytes = int(llama.llama_model_size(model) + cells * per_token)
        self._num_hidden = llama.llama_model_n_embd(model)
        self._capabilities = Capabilities(
            device=f"llama.cpp on {'gpu' if gpu else 'cpu'}",
            vocab_size=llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)),
            max_sequences=self._memory.max_sequences,
            max_rows=sizes.max_rows,
            max_step_tokens=sizes.max_step_tokens,
            max_sequence_tokens=sizes.max_sequence_tokens,
            max_prefill_tokens=sizes.max_step_tokens,
            cache_tokens=cells,
            parked_tokens=self._memory.parked_tokens,
            fork=Fork.ANY,
            mixed=True,
            chunked=True,
            draft_lengths=(ANY_LENGTH,),
            logits=LogitsRows.ALL,
            embedding=Embedding(size=self._num_hidden, pooling=Pooling.LAST),
            # one token and many take different kernels, whose rounding differs
            batch_invariant=False,
        )
        self._logits = np.empty((0, self._capabilities.vocab_size), np.float32)
        self._computed = Computed(self._context, self._capabilities.vocab_size, self._num_hidden)
        return self._capabilities

    def warm_up(self, progress: Progress) -> None:
        """Runs a row of several tokens and rows of one, so that the weights are in memory."""
        rows = min(self._capabilities.max_rows, self._batch.capacity)
        one, many = np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32)
        for done, (position, seq) in enumerate(((many, one), (one, many))):
            progress("warming up", done, 2, "shapes")
            code = self._decode(one, position, seq, np.ones(rows, np.int8))
            for used in range(rows):
                self._memory.undo(used, 0)
            if code != 0:
                raise BackendDead(f"llama_decode failed with {code}: {llama_log().complaints()}")
        progress("warming up", 2, 2, "shapes")

    def reserve(self, seq: int, length: int) -> bool:
        """Counts cells; llama.cpp takes them when the tokens come."""
        self._check_id(seq)
        return self._memory.reserve(seq, length)

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Never refuses."""
        self._check_id(src)
        self._check_id(dst)
        self._memory.fork(src, dst, length)
        return True

    def truncate(self, seq: int, length: int) -> None:
        """Frees the cells that no other sequence shares."""
        self._check_id(seq)
        self._memory.truncate(seq, length)

    def release(self, seq: int) -> None:
        """Frees the cells that no other sequence shares."""
        self.truncate(seq, 0)

    def step(self, step: Step) -> PendingLogits:
        """Runs a `llama_decode` for each portion; the logits are on the host when it returns.

        Raises:
            Unsupported: the step is larger than the capabilities allow, or has embeddings.
            RowsFailed: rows with a token outside the vocabulary, or without reserved room.
            OutOfMemory, BackendDead: as llama.cpp says.
        """
        self._check(step)
        num, parts = len(step.out), self._parts(step)
        logits = None
        for rows in self._decodes(step, step.out, parts):
            computed = self._computed.logits(len(rows))
            # where no other decode follows they may stay in llama.cpp's memory
            if len(parts) == 1 and (num == 1 or (rows[1:] > rows[:-1]).all()):
                logits = computed
                continue
            if logits is None:
                logits = self._logits_of(num)
            logits[rows] = computed
        self._memory.advance(step.seq, step.n)
        return HostLogits(self._logits_of(0) if logits is None else logits)

    def embed(self, step: Step) -> NDArray[np.float32]:
        """The last token's hidden states of each row; see `Embeds.embed` and `step`."""
        self._check(step)
        # llama.cpp then gives those of all tokens, whatever is asked for
        vectors = np.empty((step.num_tokens, self._num_hidden), np.float32)
        llama.llama_set_embeddings(self._context, True)
        try:
            everything = np.arange(step.num_tokens, dtype=np.int32)
            for rows in self._decodes(step, everything, self._parts(step)):
                vectors[rows] = self._computed.vectors(len(rows))
            self._memory.advance(step.seq, step.n)
        finally:
            llama.llama_set_embeddings(self._context, False)
        return vectors[step.row_begins()[1:] - 1]

    def _parts(self, step: Step) -> list[NDArray[np.intp]]:
        """The tokens of each `llama_decode` of a step."""
        return [
            portion[begin : begin + self._batch.capacity]
            for portion in self._memory.portions(step)
            for begin in range(0, len(portion), self._batch.capacity)
        ]

    def _decodes(
        self, step: Step, out: NDArray[np.int32], parts: list[NDArray[np.intp]]
    ) -> Iterator[NDArray[np.intp]]:
        """Computes a step part by part.

        Yields:
            After each `llama_decode` that computes something asked for: the places in `out` of
            what it computed, in llama.cpp's order.
        """
        position = step.token_positions()
        wanted = np.zeros(step.num_tokens, np.int8)
        wanted[out] = 1
        place = np.cumsum(wanted) - 1
        seq = np.repeat(self._memory.ids(step.seq), step.n)
        for tokens in parts:
            # before the decode, which leaves nothing of ours in the CPU's caches
            rows = place[tokens[wanted[tokens] == 1]]
            code = self._decode(step.tokens[tokens], position[tokens], seq[tokens], wanted[tokens])
            if code != 0:
                self._undo(step)
                raise self._failure(code, step)
            if len(rows):
                yield rows

    def stats(self) -> BackendStats:
        """Reserved cells count as used."""
        return BackendStats(
            cache_tokens_used=self._memory.num_used, memory_bytes=self._memory_bytes
        )

    def close(self) -> None:
        """Frees context and weights; may be called twice."""
        self._resources.close()

    def _check_id(self, seq: int) -> None:
        if not 0 <= seq < self._capabilities.max_sequences:
            raise ValueError(f"there is no sequence {seq}")

    def _check(self, step: Step) -> None:
        can = self._capabilities
        if step.images or step.positions is not None:
            raise Unsupported("embeddings in a step")
        if step.adapter is not None and step.adapter.any():
            raise Unsupported("adapters")
        if step.num_rows > can.max_rows or step.num_tokens > can.max_step_tokens:
            raise Unsupported(
                "steps of this size",
                f"{step.num_rows} rows and {step.num_tokens} tokens are more than a step's "
                f"{can.max_rows} and {can.max_step_tokens}",
            )
        # lists, as rows are few: between two decodes numpy takes microseconds for a single number
        n, out = step.n.tolist(), step.out
        shapes_agree = len(step.past) == len(n) == step.num_rows
        if not shapes_agree or min(n, default=1) < 1 or sum(n) != step.num_tokens:
            raise ValueError("the arrays of the step do not fit together")
        if len(set(step.seq.tolist())) != step.num_rows:
            raise ValueError("a sequence occurs twice in the step")
        if len(out) and not (
            0 <= out[0] and out[-1] < step.num_tokens and (out[1:] > out[:-1]).all()
        ):
            raise ValueError("out is not ascending within the tokens of the step")
        bad = self._bad_rows(step)
        if len(bad):
            raise RowsFailed(bad, "a token outside the vocabulary, or room that was not reserved")

    def _bad_rows(self, step: Step) -> list[int]:
        """Rows that must not reach llama.cpp."""
        can, held, reserved = self._capabilities, self._memory.held, self._memory.reserved
        rows = zip(step.seq.tolist(), step.past.tolist(), step.n.tolist(), strict=True)
        bad = {
            row
            for row, (seq, past, n) in enumerate(rows)
            if not 0 <= seq < can.max_sequences or past != held[seq] or past + n > reserved[seq]
        }
        outside = step.tokens.view(np.uint32) >= can.vocab_size  # negative ones become large
        if outside.any():
            owners = np.repeat(np.arange(step.num_rows), step.n)
            bad.update(owners[outside].tolist())
        return sorted(bad)

    def _decode(
        self,
        token: NDArray[np.int32],
        position: NDArray[np.int32],
        seq: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> int:
        llama_log().forget()
        return self._batch.decode(self._context, token, position, seq, wanted)

    def _undo(self, step: Step) -> None:
        """Drops whatever the failed step has written."""
        for seq, past in zip(step.seq.tolist(), step.past.tolist(), strict=True):
            self._memory.undo(seq, past)

    def _failure(self, code: int, step: Step) -> Exception:
        """What `llama_decode`'s return code means here."""
        words = llama_log().complaints()
        if code == 1:
            return OutOfMemory(f"llama.cpp found no room in its cache: {words}")
        if code < -1:
            return BackendDead(f"llama_decode failed with {code}: {words}")
        reason = f"llama_decode refused the batch with {code}: {words}"
        return RowsFailed(range(step.num_rows), reason)

    def _logits_of(self, rows: int) -> NDArray[np.float32]:
        """float32 (rows, vocab) of one buffer that grows: fresh pages each step cost more."""
        if rows > len(self._logits):
            self._logits = np.empty((rows, self._capabilities.vocab_size), np.float32)
        return self._logits[:rows]

    def _try_cache(self) -> None:
        """Some architectures' caches cannot do all that is needed; only trying tells."""
        n = min(3, self._batch.capacity)
        tokens, positions = np.zeros(n, np.int32), np.arange(n, dtype=np.int32)
        code = self._decode(tokens, positions, np.zeros(n, np.int32), np.zeros(n, np.int8))
        if code != 0:
            raise UnsupportedModel(
                f"llama.cpp cannot decode this model ({code}): {llama_log().complaints()}."
            )
        self._memory.prove()
        self._memory.undo(0, 0)
