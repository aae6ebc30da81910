"""A simulated optimum-neuron: its compiler makes a list of shapes, its runtime keeps to them."""

from optimum.neuron.modeling import NeuronModelForCausalLM

__all__ = ["NeuronModelForCausalLM"]
