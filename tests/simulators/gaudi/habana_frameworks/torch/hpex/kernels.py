"""The kernel of habana_frameworks.torch.hpex.kernels that a server calls."""

from torch import Tensor
from torch.nn import functional


class FusedSDPA:
    @staticmethod
    def apply(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        softmax_mode: str,
        recompute_mode: bool,
        valid_sequence_lengths: Tensor | None,
        padding_side: str,
    ) -> Tensor:
        if query.dtype != key.dtype or attn_mask is None or attn_mask.dtype != query.dtype:
            raise RuntimeError("FusedSDPA takes one dtype")
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True
        )
