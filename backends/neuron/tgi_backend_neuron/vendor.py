"""All calls to optimum-neuron, and so to Neuron's compiler and runtime. The only module with them.

optimum-neuron 0.4 stands on NxD inference, which AWS has stopped developing: a successor takes this
module's place and leaves the rest as it is. It knows graphs and tensors, and neither sequences nor
requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tgi_backend_neuron.compiled import CompiledFacts
from tgi_core.errors import BackendDead, BackendUnavailable, UnsupportedModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWishes:
    """What to compile."""

    num_slots: int
    slot_tokens: int
    num_cores: int | None
    """None: all that this machine shows."""
    dtype: str | None
    """None: the checkpoint's."""
    instance: str | None
    """"inf2", "trn1" or "trn2"; None: this machine's."""


class CompiledModel:
    """The graphs of one model on their cores. One process holds its cores until it ends."""

    def __init__(self, folder: Path, facts: CompiledFacts) -> None:
        """Loads graphs and weights.

        Raises:
            UnsupportedModel: it was compiled for other cores, or by another release.
        """
        import torch
        from optimum.neuron import NeuronModelForCausalLM

        self._torch = torch
        self._all_slots = torch.arange(facts.num_slots, dtype=torch.int32)
        try:
            self._model: Any = NeuronModelForCausalLM.from_pretrained(str(folder))
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModel(f"{folder} does not run here: {error}") from error

    def prefill(
        self, slot: int, tokens: NDArray[np.int32], params: NDArray[np.float32]
    ) -> NDArray[Any]:
        """Writes a prompt of two tokens or more to a slot, from its first cell on.

        Args:
            slot: which one.
            tokens: int32 (n,), at most `CompiledFacts.prompt_tokens`: more would be cut off.
            params: float32 (1, 3), top-k, top-p and temperature.

        Returns:
            Of the last token: float32 (1, vocab) logits, or int (1,) if the device samples.
        """
        positions = np.arange(len(tokens), dtype=np.int32)
        slots = self._torch.tensor([slot], dtype=self._torch.int32)
        return self._call(tokens[None], positions[None], slots, params)

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        params: NDArray[np.float32],
    ) -> NDArray[Any]:
        """Writes one token to every slot.

        Args:
            tokens: int32 (slots,).
            positions: int32 (slots,), the cell of each; the token sees those before it.
            params: float32 (slots, 3).

        Returns:
            float32 (slots, vocab) logits, or int (slots,).
        """
        return self._call(tokens[:, None], positions[:, None], self._all_slots, params)

    def _call(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: torch.Tensor,
        params: NDArray[np.float32],
    ) -> NDArray[Any]:
        """One run of the graph that these shapes choose."""
        torch = self._torch
        try:
            out: Any = self._model(
                torch.from_numpy(np.ascontiguousarray(tokens)),
                position_ids=torch.from_numpy(np.ascontiguousarray(positions)),
                seq_ids=slots,
                sampling_params=torch.from_numpy(params),
            )
        except RuntimeError as error:
            # the cores cannot be opened a second time by the same process
            raise BackendDead(f"the Neuron runtime failed: {error}") from error
        array: NDArray[Any] = out.numpy()
        return array[:, -1] if array.ndim == 3 else array.reshape(len(tokens))


def num_cores() -> int:
    """Neuron cores that this process may use; NEURON_RT_VISIBLE_CORES narrows them."""
    from optimum.neuron.utils.system import get_available_cores

    return int(get_available_cores())


def version() -> str:
    """optimum-neuron's."""
    from optimum.neuron.version import __version__

    return str(__version__)


def export(source: Path, target: Path, wishes: ExportWishes) -> None:
    """Compiles a model, and writes its graphs and the weights of each core: minutes to an hour.

    Args:
        source: a Hugging Face folder.
        target: a folder, made if need be.
        wishes: the shapes.

    Raises:
        BackendUnavailable: optimum-neuron, its compiler or a chip to compile for is missing.
        UnsupportedModel: it cannot be compiled.
    """
    try:
        from optimum.neuron import NeuronModelForCausalLM

        config = NeuronModelForCausalLM.get_neuron_config(
            str(source),
            batch_size=wishes.num_slots,
            sequence_length=wishes.slot_tokens,
            tensor_parallel_size=wishes.num_cores,
            instance_type=wishes.instance,
        )
        config.continuous_batching = wishes.num_slots > 1
        # core samples: seeds, penalties and grammars are the same on every device
        config.on_device_sampling = False
        if wishes.dtype is not None:
            config.torch_dtype = _dtype(wishes.dtype)
        model = NeuronModelForCausalLM.export(str(source), neuron_config=config, load_weights=False)
        model.save_pretrained(str(target))
    except ImportError as error:
        raise BackendUnavailable(
            f"Neuron's compiler is not installed ({error}): export in AWS's Neuron image, or "
            "install optimum-neuron[neuronx] from https://pip.repos.neuron.amazonaws.com."
        ) from error
    except (ValueError, RuntimeError, KeyError, AssertionError) as error:
        raise UnsupportedModel(f"{source} cannot be compiled: {error}") from error


def _dtype(name: str) -> torch.dtype:
    import torch

    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    return dtypes[name]
