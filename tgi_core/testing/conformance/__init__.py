"""The conformance kit: every promise of the step contract as a test, for any backend to inherit.

    from tgi_core.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        module = "tgi_backend_mine"

        @pytest.fixture(scope="class")
        @classmethod
        def load_request(cls, tmp_path_factory) -> LoadRequest: ...

Knows the contract and the numpy sampler, and nothing else of core. docs/writing-a-backend.md tells
how to use it.
"""

import pytest

# before these are imported, so that their asserts show the values
for _group in (
    "adapters",
    "batching",
    "embedding",
    "encoder",
    "engine.adapters",
    "engine.driver",
    "engine.events",
    "engine.grammar",
    "engine.isolation",
    "engine.reference",
    "engine.sampling",
    "engine.stops",
    "fork",
    "honesty",
    "images",
    "introduction",
    "lifecycle",
    "limits",
    "runner",
    "samplers",
    "sampling",
):
    pytest.register_assert_rewrite(f"{__name__}.{_group}")

from tgi_core.testing.conformance.adapters import AdapterPromises  # noqa: E402
from tgi_core.testing.conformance.batching import BatchingPromises  # noqa: E402
from tgi_core.testing.conformance.cache import CachePromises  # noqa: E402
from tgi_core.testing.conformance.embedding import EmbeddingPromises  # noqa: E402
from tgi_core.testing.conformance.encoder import EncoderPromises  # noqa: E402
from tgi_core.testing.conformance.engine.adapters import EngineAdapterPromises  # noqa: E402
from tgi_core.testing.conformance.engine.events import EventPromises  # noqa: E402
from tgi_core.testing.conformance.engine.grammar import GrammarPromises  # noqa: E402
from tgi_core.testing.conformance.engine.isolation import IsolationPromises  # noqa: E402
from tgi_core.testing.conformance.engine.reference import EngineReferencePromises  # noqa: E402
from tgi_core.testing.conformance.engine.sampling import EngineSamplingPromises  # noqa: E402
from tgi_core.testing.conformance.engine.stops import StopPromises  # noqa: E402
from tgi_core.testing.conformance.fork import ForkPromises  # noqa: E402
from tgi_core.testing.conformance.honesty import HonestyPromises  # noqa: E402
from tgi_core.testing.conformance.images import ImagePromises  # noqa: E402
from tgi_core.testing.conformance.introduction import IntroductionPromises  # noqa: E402
from tgi_core.testing.conformance.lifecycle import LifecyclePromises  # noqa: E402
from tgi_core.testing.conformance.limits import LimitPromises  # noqa: E402
from tgi_core.testing.conformance.reference import ReferencePromises  # noqa: E402
from tgi_core.testing.conformance.samplers import SamplerConformance  # noqa: E402
from tgi_core.testing.conformance.sampling import SamplingPromises  # noqa: E402

__all__ = ["BackendConformance", "EngineConformance", "SamplerConformance"]


class BackendConformance(
    CachePromises,
    ForkPromises,
    BatchingPromises,
    EmbeddingPromises,
    EncoderPromises,
    AdapterPromises,
    ImagePromises,
    SamplingPromises,
    LimitPromises,
    LifecyclePromises,
    ReferencePromises,
    HonestyPromises,
    IntroductionPromises,
):
    """All promises. A test that the backend's capabilities exclude is skipped and names them."""


class EngineConformance(
    EventPromises,
    StopPromises,
    EngineSamplingPromises,
    IsolationPromises,
    GrammarPromises,
    EngineAdapterPromises,
    EngineReferencePromises,
    IntroductionPromises,
):
    """The same for an Engine. A test of a feature that is not claimed is skipped and names it."""
