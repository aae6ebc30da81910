"""The families of models whose layers look at images from outside the text: where their layers
are, what these want to be told, how an image becomes vectors, and which images a token sees.

Another family is a class and a line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tgi_backend_torch.image_tables import Shown


@dataclass(frozen=True, slots=True)
class View:
    """What the tokens of a sequence see from a position on, up to the next view."""

    begin: int
    images: tuple[Any, ...]


class CrossFamily(Protocol):
    """Knows the classes of one family in transformers."""

    states: str
    """What a layer's attention calls the vectors of images."""

    def connect(self, model: Any) -> list[nn.Module]:
        """Makes a model ready; returns its layers that look at images, in order. The attention of
        each is its `cross_attn`.
        """
        ...

    def model_arguments(self, model: Any, sees: Tensor, *, looks: bool) -> dict[str, Tensor]:
        """What the model wants in a step besides tokens.

        Args:
            model: of this family.
            sees: bool (T,), whether a token sees any image.
            looks: whether any does.
        """
        ...

    def layer_arguments(self, sees: Tensor) -> dict[str, Tensor | None]:
        """What a layer gets instead of what the model gives it."""
        ...

    def num_vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> int:
        """How many `vectors` will return."""
        ...

    def most_vectors(self, model: Any) -> int:
        """The most of one image."""
        ...

    def vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(V, size): what the layers see of an image, from what its processor made of it."""
        ...

    def views(self, shown: Sequence[Shown]) -> list[View]:
        """From where on which images are seen, for those of one sequence."""
        ...


class Mllama:
    """Llama 3.2 Vision. Images side by side are seen together, until the next ones come."""

    states = "cross_attention_states"

    def connect(self, model: Any) -> list[nn.Module]:
        """See `CrossFamily.connect`."""
        text = model.model.language_model
        return [text.layers[index] for index in text.cross_attention_layers]

    def model_arguments(self, model: Any, sees: Tensor, *, looks: bool) -> dict[str, Tensor]:
        """Without vectors the layers are skipped, which is what they come to if nobody sees any."""
        if not looks:
            return {}
        size = model.config.text_config.hidden_size
        return {self.states: torch.zeros(1, 1, size, dtype=model.dtype, device=sees.device)}

    def layer_arguments(self, sees: Tensor) -> dict[str, Tensor | None]:
        """See `CrossFamily.layer_arguments`."""
        return {
            "cross_attention_mask": None,
            "full_text_row_masked_out_mask": sees[None, None, :, None],
        }

    def num_vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> int:
        """Of the tiles that the image fills; the others are padding."""
        return int(inputs["aspect_ratio_mask"].sum()) * int(model.model.vision_model.num_patches)

    def most_vectors(self, model: Any) -> int:
        """See `CrossFamily.most_vectors`."""
        vision = model.model.vision_model
        return int(model.config.vision_config.max_num_tiles) * int(vision.num_patches)

    def vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `CrossFamily.vectors`."""
        hidden = model.model.vision_model(**inputs).last_hidden_state
        vectors: Tensor = model.model.multi_modal_projector(hidden).flatten(0, 3)
        return vectors[: self.num_vectors(model, inputs)]

    def views(self, shown: Sequence[Shown]) -> list[View]:
        """See `CrossFamily.views`."""
        views: list[View] = []
        for one in shown:
            beside = views and views[-1].begin == one.position - 1
            before = views[-1].images if beside else ()
            views.append(View(one.position, (*before, one.image)))
        return views


class Idefics:
    """Idefics1. A token sees the last image before it."""

    states = "key_value_states"

    def connect(self, model: Any) -> list[nn.Module]:
        """See `CrossFamily.connect`."""
        # its constructor has given the tower the attention of the text
        model.config.vision_config._attn_implementation = "sdpa"
        embedding = model.get_input_embeddings()
        if embedding.num_additional_embeddings:
            embedding.forward = partial(_embedded, embedding)
        return list(model.model.gated_cross_attn_layers)

    def model_arguments(self, model: Any, sees: Tensor, *, looks: bool) -> dict[str, Tensor]:
        """A vector for no image, and a mask of it, which the model cannot do without."""
        name = "perceiver_embeddings" if model.config.use_resampler else "image_encoder_embeddings"
        size = model.config.vision_config.embed_dim
        return {
            name: torch.zeros(1, 1, 1, size, dtype=model.dtype, device=sees.device),
            "image_attention_mask": sees[None, :, None],
        }

    def layer_arguments(self, sees: Tensor) -> dict[str, Tensor | None]:
        """See `CrossFamily.layer_arguments`."""
        return {"image_attention_mask": None, "cross_attention_gate": sees[None]}

    def num_vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> int:
        """See `CrossFamily.num_vectors`."""
        return self.most_vectors(model)

    def most_vectors(self, model: Any) -> int:
        """See `CrossFamily.most_vectors`."""
        if model.config.use_resampler:
            return int(model.config.perceiver_config.resampler_n_latents)
        return int(model.model.vision_model.embeddings.num_positions)

    def vectors(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `CrossFamily.vectors`."""
        hidden: Tensor = model.model.vision_model(**inputs).last_hidden_state
        if model.config.use_resampler:
            hidden = model.model.perceiver_resampler(hidden)
        return hidden[0]

    def views(self, shown: Sequence[Shown]) -> list[View]:
        """See `CrossFamily.views`."""
        return [View(one.position, (one.image,)) for one in shown]


def _embedded(embedding: Any, tokens: Tensor) -> Tensor:
    """What Idefics1's two tables make of tokens, both asked for all: transformers' code finds out
    first which are in the second, and a compiled step cannot.
    """
    own = tokens < embedding.num_embeddings
    first = functional.embedding(tokens.masked_fill(~own, 0), embedding.weight)
    second = embedding.additional_embedding((tokens - embedding.num_embeddings).clamp_min(0))
    return torch.where(own[..., None], first, second)


FAMILIES: Mapping[str, CrossFamily] = {"idefics": Idefics(), "mllama": Mllama()}
"""By `model_type`."""
