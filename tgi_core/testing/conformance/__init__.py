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
    "fork",
    "honesty",
    "images",
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
from tgi_core.testing.conformance.fork import ForkPromises  # noqa: E402
from tgi_core.testing.conformance.honesty import HonestyPromises  # noqa: E402
from tgi_core.testing.conformance.images import ImagePromises  # noqa: E402
from tgi_core.testing.conformance.lifecycle import LifecyclePromises  # noqa: E402
from tgi_core.testing.conformance.limits import LimitPromises  # noqa: E402
from tgi_core.testing.conformance.reference import ReferencePromises  # noqa: E402
from tgi_core.testing.conformance.samplers import SamplerConformance  # noqa: E402
from tgi_core.testing.conformance.sampling import SamplingPromises  # noqa: E402

__all__ = ["BackendConformance", "SamplerConformance"]


class BackendConformance(
    CachePromises,
    ForkPromises,
    BatchingPromises,
    EmbeddingPromises,
    AdapterPromises,
    ImagePromises,
    SamplingPromises,
    LimitPromises,
    LifecyclePromises,
    ReferencePromises,
    HonestyPromises,
):
    """All promises. A test that the backend's capabilities exclude is skipped and names them."""
