"""Layers that neuronx_distributed cuts among cores, on one core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SPMDRank(nn.Module):
    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.rank = nn.Parameter(torch.zeros(1, dtype=torch.int32), requires_grad=False)

    def get_rank(self) -> Tensor:
        return self.rank


class ParallelLinear(nn.Linear):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        gather_output: bool = True,
        dtype: torch.dtype = torch.float32,
        **more: Any,
    ) -> None:
        super().__init__(input_size, output_size, bias=bool(bias), dtype=dtype)
        self.gather_output = gather_output


class ParallelEmbedding(nn.Embedding):
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        **more: Any,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.min() < 0 or tokens.max() >= self.num_embeddings:
            raise RuntimeError("a token outside the vocabulary is gathered from anywhere")
        return super().forward(tokens)


class RmsNorm:
    @staticmethod
    def apply(x: Tensor, weight: Tensor, eps: float, dim: int) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(dim, keepdim=True) + eps)).to(x.dtype) * weight


class _Hardware:
    """Callable, with the names of chips."""

    TRN1, TRN2, INF2 = "trn1", "trn2", "inf2"

    def __call__(self, name: str) -> str:
        return name


hardware = _Hardware()


def argmax(tensor: Tensor, dim: int, gather_dim: int, keepdim: bool, **more: Any) -> Tensor:
    return torch.argmax(tensor, dim, keepdim)


def topk(tensor: Tensor, k: int, dim: int, **more: Any) -> Any:
    return torch.topk(tensor, k, dim)
