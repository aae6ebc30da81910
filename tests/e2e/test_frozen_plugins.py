"""A server with a stranger's backend and a stranger's dialect, both of contract 1.0."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.frozen import install
from tests.servers import ServerFactory
from tgi_core.config.sources import environment
from tgi_core.testing.models import write_fake_adapter, write_fake_model


def test_they_serve_every_way_that_a_client_may_ask(serve: ServerFactory, tmp_path: Path):
    model = write_fake_model(tmp_path / "model")
    adapter = write_fake_adapter(tmp_path / "adapter", 3)
    env = {**environment(), "PYTHONPATH": os.pathsep.join(install(tmp_path / "site"))}
    flags = ("--backend", "frozen-1-0", "--backend-option", "scale=3", "--speculate", "2")
    adapters = ("--lora-adapters", f"mine={adapter}")
    with serve(str(model), *flags, *adapters, env=env) as server:

        def generated(**more: object) -> str:
            parameters = {"max_new_tokens": 12, "details": True, **more}
            status, body = server.post(
                "/generate", {"inputs": "One, two,", "parameters": parameters}
            )
            assert status == 200, body
            answer = json.loads(body)
            assert answer["details"]["generated_tokens"] == 12
            return str(answer["generated_text"])

        greedy = generated()
        assert generated() == greedy
        assert generated(seed=5, temperature=0.9, do_sample=True) != greedy
        assert generated(adapter_id="mine") != greedy
        # the dialect: a body of its own, answered through core's chat
        status, body = server.post("/frozen-1-0", {})
        assert status == 200 and body
        info = json.loads(server.get("/info")[1])
        assert info["backend"] == "frozen-1-0"
        assert "conformance" not in info
