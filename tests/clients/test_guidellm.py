"""A benchmark of chat and of completions, on made-up prompts; every request succeeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Server


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_every_request_of_a_benchmark_succeeds(
    server: Server, fake_model: Path, tmp_path: Path, route: str
) -> None:
    report = tmp_path / "report.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "guidellm", "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={server.url},request_format={route}"),
            *("--profile", "kind=concurrent,streams=[2]"),
            *("--constraint", "kind=max_requests,count=6"),
            *("--tokenizer", f"kind=huggingface_auto,model={fake_model}"),
            *("--data", "kind=synthetic_text,prompt_tokens=20,output_tokens=10"),
            *("--output", f"kind=json,path={report}"),
        ],
        check=True,
        timeout=110,
        env={**dict(os.environ), "HF_HUB_OFFLINE": "1"},  # noqa: TID251
    )
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == 6 and not requests["errored"]
    assert all(one["output_tokens"] == 10 for one in requests["successful"])
