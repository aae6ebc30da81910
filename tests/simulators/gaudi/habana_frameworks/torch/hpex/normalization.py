"""The kernel of habana_frameworks.torch.hpex.normalization that a server calls."""

from torch import Tensor


class FusedRMSNorm:
    @staticmethod
    def apply(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        if x.dtype != weight.dtype:
            raise RuntimeError("FusedRMSNorm takes one dtype")
        wide = x.float()
        wide = wide * (wide.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
        return (weight.float() * wide).to(x.dtype)
