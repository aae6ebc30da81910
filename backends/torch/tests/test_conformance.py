"""The conformance kit on the CPU."""

from tests.transformers_conformance import TransformersConformance


class TestTorch(TransformersConformance):
    module = "tgi_backend_torch.plugin"
