"""Attention of Falcon, put on ours: transformers' class computes it by itself.

Without ALiBi, which is a bias; Falcon RW has it, and runs in padded batches.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.falcon import modeling_falcon

from tgi_backend_torch.attention import IMPLEMENTATION, attend


class FlatFalconAttention(modeling_falcon.FalconAttention):  # type: ignore[misc]
    """Asks for attention as other families do."""

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """See `FalconAttention.forward`; hidden_states (B, L, size)."""
        parts = self._split_heads(self.query_key_value(hidden_states))
        query, key, value = (part.transpose(1, 2) for part in parts)
        assert position_embeddings is not None and alibi is None, "has_ours tells"
        query, key = modeling_falcon.apply_rotary_pos_emb(query, key, *position_embeddings)
        out, _ = attend(self, query, key, value, attention_mask)
        return self.dense(out.flatten(2)), None

    def _split_heads(self, fused_qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As its base's, but a key and a value that queries share are there once."""
        if not self.new_decoder_architecture:
            split: tuple[Tensor, Tensor, Tensor] = super()._split_heads(fused_qkv)
            return split
        group = self.num_heads // self.num_kv_heads
        parts = fused_qkv.unflatten(-1, (-1, group + 2, self.head_dim))
        return parts[..., :group, :].flatten(2, 3), parts[..., group, :], parts[..., group + 1, :]


# Where its layers look their attention up by the name that the model is made with.
modeling_falcon.FALCON_ATTENTION_CLASSES[IMPLEMENTATION] = FlatFalconAttention


def has_ours(config: PretrainedConfig) -> bool:
    """Whether attention of a family that computes it by itself is ours all the same."""
    return config.model_type == "falcon" and not config.alibi
