"""The conformance kit for engines: what `tgi_core.contract.Engine` promises, as tests to inherit.

    from tgi_core.testing.conformance import EngineConformance

    class TestMine(EngineConformance):
        module = "tgi_backend_mine"

        @pytest.fixture(scope="class")
        @classmethod
        def load_request(cls, tmp_path_factory) -> LoadRequest: ...

Knows nothing of steps, schedulers and devices.
"""
