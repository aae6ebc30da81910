"""Loaded: all that exists of one model between load and close."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.computing import Computing
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.lora import AdapterBank
from tgi_backend_torch.shards import Cuts
from tgi_backend_torch.splice import Splice
from tgi_backend_torch.tower import Tower
from tgi_core.contract import BlockTables, Capabilities, LoadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with its cache, ready for steps."""

    request: LoadRequest
    computing: Computing
    dtype: torch.dtype
    cache: PagedCache
    tables: BlockTables
    adapters: AdapterBank
    capabilities: Capabilities
    num_bytes: int
    """Memory of whatever it keeps of sequences."""
    flat: FlatModel | None = None
    """None if it runs in padded batches,"""
    cuts: Cuts | None = None
    """and else what this rank has of its weights."""
    vision: Tower | None = None
    """None if the model takes text alone,"""
    splice: Splice | None = None
    """and what has its images in steps."""
