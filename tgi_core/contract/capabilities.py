"""What a backend can do: only facts that change a scheduling decision or a validation.

Padding, slot order, idle slots, graph replay and casts are the backend's own business.
The conformance kit tests each claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tgi_core.contract.embedding import Embedding


class Fork(Enum):
    """How a sequence may take over the beginning of another one."""

    NONE = "none"
    """Not at all; core reuses a parked sequence only by going on with it."""
    BLOCK = "block"
    """At multiples of `Capabilities.cache_grain_tokens`."""
    ANY = "any"
    """At every length."""


class LogitsRows(Enum):
    """Which logits of a step can leave the device."""

    ALL = "all"
    """Those of any token of the step."""
    LAST = "last"
    """Those of the last token of each row."""
    NONE = "none"
    """None: the device samples during the step, from `Step.sampling`. What `step` returns then
    goes to `SamplesOnDevice.sample` and nowhere else."""


class AdapterRows(Enum):
    """How adapters may be mixed in one step."""

    NONE = "none"
    """There are none."""
    STEP = "step"
    """All rows of a step have the same one, or none."""
    ROW = "row"
    """Each row has its own, or none."""


class Modality(Enum):
    """What a prompt may consist of."""

    TEXT = "text"
    IMAGE = "image"


class TwoWay(Enum):
    """Which tokens of a prompt see those that come after them."""

    NONE = "none"
    """None: attention is causal."""
    IMAGES = "images"
    """Placeholders that stand side by side see one another."""
    PROMPTS = "prompts"
    """All tokens of a prompt that holds an image see one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A model with an encoder reads the whole prompt there; its decoder writes the output alone.

    A sequence is the prompt, then what the decoder begins with, then the output. Room for the
    encoder's tokens is reserved like any other, and `fork` is never asked for less than them.
    """

    start: tuple[int, ...]
    """What every decoder begins with; at least one token."""
    max_prompt_tokens: int | None = None
    """Longest prompt that the encoder was made for; None if it does not say."""
    max_output_tokens: int | None = None
    """Most tokens of the decoder, `start` included; None if it does not say."""


ANY_LENGTH = -1
"""The only member of `Capabilities.draft_lengths` when a decode row may have any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Returned by `StepBackend.load`; the same for as long as the model is loaded."""

    device: str
    """What runs the steps, for people: "cpu", "cuda:0", "llama.cpp on cpu"."""
    vocab_size: int
    """Width of a row of logits; tokens are 0 .. vocab_size - 1."""
    max_sequences: int
    """Sequence ids are 0 .. max_sequences - 1; running and parked sequences share them."""
    max_rows: int
    """Most rows in one step."""
    max_step_tokens: int
    """Most tokens in one step, over all rows."""
    max_sequence_tokens: int
    """Longest sequence, prompt and output together."""
    max_prefill_tokens: int
    """Longest row of more than one token. Longer prompts need `chunked`."""
    cache_tokens: int
    """What the KV cache holds over all sequences, in tokens."""
    cache_grain_tokens: int = 1
    """Unit in which the cache is handed out: a block, a slot, or 1."""
    parked_tokens: int | None = None
    """Parked sequences beyond this many tokens make every step slower; None: they cost nothing."""
    fork: Fork = Fork.NONE
    truncates: bool = True
    """A sequence may be cut at any length. False: only to nothing, or at what it holds, as with a
    recurrent state, which cannot go back."""
    mixed: bool = False
    """A step may hold rows of one token and longer rows together."""
    chunked: bool = False
    """A row of more than one token may begin at `past` > 0."""
    draft_lengths: tuple[int, ...] = ()
    """Lengths that a decode row with drafts may have, its first token included; (ANY_LENGTH,) for
    all, () for no drafts. Drafts need `logits` ALL."""
    logits: LogitsRows = LogitsRows.LAST
    adapters: AdapterRows = AdapterRows.NONE
    """How rows may differ in their adapters. Any but NONE needs `HoldsAdapters`."""
    modalities: frozenset[Modality] = frozenset({Modality.TEXT})
    """What prompts may hold. IMAGE needs `EncodesImages`."""
    max_adjacent_images: int | None = None
    """Most images whose placeholders stand side by side in a prompt; None: any number."""
    two_way: TwoWay = TwoWay.NONE
    """Tokens that see one another are computed in one step, named by `Step.two_way`."""
    generates: bool = True
    """False for encoders: `step` is never called, and `chunked` says whether `embed` takes a text
    in parts."""
    embedding: Embedding | None = None
    """How texts are embedded; the backend then has `Embeds`. None: it cannot."""
    encoder: Encoder | None = None
    """Where prompts go, if not into the decoder. `chunked` is about the decoder's tokens then."""
    row_buckets: tuple[int, ...] = ()
    """Row counts that cost the same as the next larger one; a hint."""
    steps_in_flight: int = 1
    """Steps that may be started before the first one's tokens are read: 1 or 2. 2 needs a
    backend that samples on its device (`SamplesOnDevice`)."""
    batch_invariant: bool = False
    """A row's logits do not depend, to the bit, on the other rows or on chunking."""
