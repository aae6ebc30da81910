"""The conformance kit, with a CPU in the place of the GPU: all but the calls of torch.xpu."""

import pytest

from tests.transformers_conformance import TransformersConformance


@pytest.mark.long
class TestXpu(TransformersConformance):
    module = "tests.simulators.xpu.xpu_on_cpu"
    package = "tgi_backend_xpu"
