"""What the GPU can do, measured; and what of it a model needs, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PretrainedConfig, PreTrainedModel

_COPIED_BYTES = 4 << 30
_SIZE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates of this GPU."""

    bytes_s: float
    """Device memory, by a large copy: bytes read and bytes written."""
    flops_s: float
    """bfloat16 matrix products, by one of 8192 x 8192 x 8192 on random numbers."""


def seconds(run: Callable[[], object], repeats: int = 10) -> float:
    """Median time on the device."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return median(times)


def measure_limits() -> Limits:
    limits = Limits(bytes_s=_copy_rate(), flops_s=_matrix_rate())
    torch.cuda.empty_cache()
    return limits


def _copy_rate() -> float:
    source = torch.randn(_COPIED_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / seconds(lambda: target.copy_(source))


def _matrix_rate() -> float:
    a, b = (torch.randn(_SIZE, _SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return float(2 * _SIZE**3 / seconds(lambda: a @ b))


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a step of a model needs at least."""

    layer_numbers: int
    """Weights that every token is multiplied by, output layer apart; of experts the chosen ones."""
    read_numbers: int
    """Weights that a step of one token reads."""
    expert_numbers: int
    """Weights that a step of many tokens reads, all experts included."""
    head_numbers: int
    cell_bytes: int
    """Keys and values of one token."""
    attention_flops: int
    """Of one token for each that it sees."""

    @classmethod
    def of(cls, model: PreTrainedModel, config: PretrainedConfig) -> Needs:
        """Counts the weights; the input embedding is a table that is not read."""
        experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
        whole = sum(p.numel() for p in model.parameters())
        table = model.get_input_embeddings().weight.numel()
        head = model.get_output_embeddings().weight.numel()
        if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
            table = 0
        layers = whole - table - head - experts
        chosen = 0
        if experts:
            chosen = experts * config.num_experts_per_tok // config.num_local_experts
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layer_numbers=layers + chosen,
            read_numbers=layers + chosen + head,
            expert_numbers=layers + experts + head,
            head_numbers=head,
            cell_bytes=2 * config.num_hidden_layers * config.num_key_value_heads * dim * 2,
            attention_flops=4 * config.num_hidden_layers * config.num_attention_heads * dim,
        )

    def decode_s(self, limits: Limits, rows: int, length: float) -> float:
        """Least time of a step of `rows` tokens that see `length` tokens each."""
        read = self.read_numbers if rows == 1 else self.expert_numbers
        moved = 2 * read + rows * length * self.cell_bytes
        flops = rows * (
            2 * (self.layer_numbers + self.head_numbers) + length * self.attention_flops
        )
        return max(moved / limits.bytes_s, flops / limits.flops_s)

    def prefill_s(self, limits: Limits, length: int) -> float:
        """Least time to compute a prompt of `length` tokens."""
        return self.prefill_flops(length) / limits.flops_s

    def prefill_flops(self, length: int) -> float:
        """Half of the keys are seen, on the average; logits are made for the last token."""
        layers = 2 * self.layer_numbers * length
        return layers + self.attention_flops * length**2 / 2 + 2 * self.head_numbers
