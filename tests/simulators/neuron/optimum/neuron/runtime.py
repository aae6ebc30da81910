"""The simulated device: graphs of fixed shapes over slots of a fixed size; transformers computes.

It refuses what the real one would refuse or compute wrongly without a word: other shapes and types,
a slot that occurs twice, a position outside its slot, a token outside the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from optimum.neuron.config import NxDNeuronConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from tests.simulators.graphs import Graphs, Signature, signature

CONTEXT, TOKEN = "context_encoding", "token_generation"
_ATTENTION = "neuron_simulator"


def graph_inputs(config: NxDNeuronConfig) -> dict[str, Signature]:
    """Shapes and types of the two graphs: tokens, positions, slots, sampling parameters."""

    def inputs(rows: int, tokens: int) -> Signature:
        ids = torch.zeros(rows, tokens, dtype=torch.int32)
        return signature([ids, ids, ids[:, 0], torch.zeros(rows, 3)])

    prompts = 1 if config.continuous_batching else config.batch_size
    return {
        CONTEXT: inputs(prompts, config.max_context_length),
        TOKEN: inputs(config.batch_size, 1),
    }


class Runtime:
    """One model on its cores."""

    def __init__(
        self,
        model_config: PretrainedConfig,
        config: NxDNeuronConfig,
        graphs: Graphs,
        weights: dict[str, Tensor],
    ) -> None:
        AttentionInterface.register(_ATTENTION, _attend)
        self._config = config
        self._vocab = model_config.vocab_size
        self.graphs = graphs
        self.model: Any = AutoModelForCausalLM.from_config(
            model_config, dtype=config.torch_dtype, attn_implementation=_ATTENTION
        ).eval()
        self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()
        for layer in self.model.model.layers:
            layer.self_attn.simulated_slots = _Slots(config)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, positions: Tensor, slots: Tensor, params: Tensor) -> Tensor:
        """(rows, 1, vocab) float32 logits, or (rows,) tokens if the graph samples."""
        graph = self.graphs.find([tokens, positions, slots, params])
        self._refuse(tokens, positions, slots)
        for layer in self.model.model.layers:
            layer.self_attn.simulated_slots.begin(graph, positions, slots)
        wanted = positions.argmax(1)
        logits = self.model(
            input_ids=tokens.long(), position_ids=positions.long(), use_cache=False
        ).logits
        last = logits[torch.arange(len(tokens)), wanted].float()
        return self._choose(last, params) if self._config.on_device_sampling else last[:, None]

    def _refuse(self, tokens: Tensor, positions: Tensor, slots: Tensor) -> None:
        if tokens.min() < 0 or tokens.max() >= self._vocab:
            raise RuntimeError("a token outside the vocabulary is gathered from anywhere")
        if positions.min() < 0 or positions.max() >= self._config.sequence_length:
            raise RuntimeError("a cell outside its slot is written anywhere")
        named = slots.tolist()
        if len(set(named)) < len(named) or not set(named) <= set(range(self._config.batch_size)):
            raise RuntimeError(f"slots {named} of {self._config.batch_size}")

    def _choose(self, logits: Tensor, params: Tensor) -> Tensor:
        """Draws among the `top_k` likeliest; `top_p` of them."""
        chosen = []
        for row, (top_k, top_p, temperature) in zip(logits, params.tolist(), strict=True):
            if not (0 < top_k <= self._config.max_topk and 0 < top_p <= 1 and temperature > 0):
                raise ValueError(f"sampling parameters {(top_k, top_p, temperature)}")
            values, ids = (row / temperature).topk(min(int(top_k), len(row)))
            shares = values.softmax(0)
            shares[(shares.cumsum(0) - shares) >= top_p] = 0
            chosen.append(ids[shares.multinomial(1)])
        return torch.cat(chosen)


class _Slots:
    """Keys and values of one layer."""

    def __init__(self, config: NxDNeuronConfig) -> None:
        self._config = config
        self._cells: list[Tensor] = []

    def begin(self, graph: str, positions: Tensor, slots: Tensor) -> None:
        self._graph, self._positions, self._slots = graph, positions.long(), slots.long()

    def write(self, *new: Tensor) -> tuple[list[Tensor], Tensor]:
        """Keys and values to attend to, and which of them each token sees."""
        if not self._cells:
            shape = (self._config.batch_size, new[0].shape[1], self._config.sequence_length)
            # what nobody wrote must not be seen, so it is no number
            self._cells = [torch.full((*shape, x.shape[3]), torch.nan, dtype=x.dtype) for x in new]
        if self._graph == CONTEXT:
            length = new[0].shape[2]
            for cells, x in zip(self._cells, new, strict=True):
                cells[self._slots, :, :length] = x
            return list(new), torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        for cells, x in zip(self._cells, new, strict=True):
            cells[torch.arange(len(x)), :, self._positions[:, 0]] = x[:, :, 0]
        seen = torch.arange(self._config.sequence_length) <= self._positions
        unseen = ~seen[:, None, :, None]
        return [cells.masked_fill(unseen, 0) for cells in self._cells], seen[:, None, None]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    (keys, values), seen = module.simulated_slots.write(key, value)
    out = scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None
