"""Adapters as clients see them: chosen by name, listed, and loaded while the server runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.api.conftest import Reply, Server
from tgi_core.api.adapters import Adapters, adapter_within
from tgi_core.api.options import http_options
from tgi_core.config.settings import AdapterSettings, ServerSettings
from tgi_core.contract import Feature
from tgi_core.errors import BadAdapter, UsageError
from tgi_core.testing.models import write_fake_adapter

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where adapters lie: one of any name may be written there."""
    return tmp_path / "adapters"


@pytest.fixture
def adapted(server: Server, folder: Path) -> Server:
    """With the adapters `french` and `org/poems`, and room for four."""
    adapters = Adapters(server.engine, "org/model", 4)
    for seed, name in enumerate(("french", "org/poems")):
        path = write_fake_adapter(folder / name.replace("/", "-"), seed)
        asyncio.run(adapters.load(name, path))
    server.service.model = replace(server.service.model, adapters=adapters)
    return server.with_options(adapter_folder=folder)


def load(server: Server, name: object, path: object, **headers: str) -> Reply:
    return server.request(
        "POST", "/v1/load_lora_adapter", headers, {"lora_name": name, "lora_path": path}
    )


def unload(server: Server, name: str) -> Reply:
    return server.post("/v1/unload_lora_adapter", {"lora_name": name})


def used(server: Server) -> str | None:
    adapter = server.engine.last.adapter
    return adapter.name if adapter else None


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_adapter_id_chooses_an_adapter(adapted, path):
    for name in ("french", "org/poems", None):
        body = {"inputs": "a", "parameters": {"adapter_id": name}}
        assert adapted.post(path, body).status == 200
        assert used(adapted) == name


@pytest.mark.parametrize("stream", [False, True])
def test_model_chooses_an_adapter_if_there_is_one_of_that_name(adapted, stream):
    for model, name in (
        ("french", "french"),
        ("org/poems", "org/poems"),
        ("tgi", None),
        ("org/model", None),
        ("anything", None),
        (None, None),
    ):
        reply = adapted.post("/v1/chat/completions", {**CHAT, "model": model, "stream": stream})
        assert reply.status == 200
        assert used(adapted) == name
        first = reply.events[0] if stream else reply.json
        assert first["model"] == (model if model not in (None, "tgi") else "org/model")
        body = {"prompt": "a", "model": model, "stream": stream}
        assert adapted.post("/v1/completions", body).status == 200
        assert used(adapted) == name


def test_adapter_id_counts_more_than_the_models_name(adapted):
    adapted.post("/v1/chat/completions", {**CHAT, "model": "french", "adapter_id": "org/poems"})
    assert used(adapted) == "org/poems"


def test_all_choices_have_the_adapter(adapted):
    adapted.post("/v1/chat/completions", {**CHAT, "model": "french", "n": 3})
    assert [g.request.adapter.name for g in adapted.engine.generations] == ["french"] * 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": "frensh"}}),
        ("/v1/chat/completions", {**CHAT, "adapter_id": "frensh"}),
    ],
)
def test_an_unknown_adapter_is_an_error_and_not_the_base_model(adapted, path, body):
    reply = adapted.post(path, body)
    assert reply.status == 422
    assert b"`adapter_id` names no adapter of this server" in reply.body
    assert not adapted.engine.generations


def test_an_engine_without_adapters_says_so(server):
    server.service.model = replace(
        server.service.model,
        limits=replace(
            server.service.model.limits, features=frozenset(Feature) - {Feature.ADAPTER}
        ),
    )
    reply = server.post("/generate", {"inputs": "a", "parameters": {"adapter_id": "x"}})
    assert reply.status == 422
    assert b"`adapter_id` is not supported by the engine of this server" in reply.body


def test_adapters_are_listed(adapted):
    listed = adapted.get("/v1/models").json["data"]
    assert [(m["id"], m.get("parent")) for m in listed] == [
        ("org/model", None),
        ("french", "org/model"),
        ("org/poems", "org/model"),
    ]
    assert "parent" not in listed[0]
    assert adapted.get("/v1/models/org/poems").json["parent"] == "org/model"
    assert adapted.get("/v1/models/org/other").status == 404
    assert adapted.get("/info").json["adapters"] == ["french", "org/poems"]


def test_where_there_are_none_nothing_changes(server):
    assert [m["id"] for m in server.get("/v1/models").json["data"]] == ["org/model"]
    assert "adapters" not in server.get("/info").json


def test_adapters_come_and_go(adapted, folder):
    write_fake_adapter(folder / "new", 9)
    reply = load(adapted, "latin", "new")
    assert (reply.status, reply.body) == (
        200,
        b"Success: LoRA adapter 'latin' added successfully.",
    )
    assert reply.headers["content-type"].startswith("text/plain")
    adapted.post("/v1/chat/completions", {**CHAT, "model": "latin"})
    assert used(adapted) == "latin"
    assert adapted.engine.last.adapter.path == folder / "new"
    assert unload(adapted, "latin").body == b"Success: LoRA adapter 'latin' removed successfully."
    assert adapted.engine.dropped == ["latin"]
    assert unload(adapted, "latin").status == 404
    adapted.post("/v1/chat/completions", {**CHAT, "model": "latin"})
    assert used(adapted) is None
    assert load(adapted, "latin", str(folder / "new")).status == 200


@pytest.mark.parametrize("name", ["french", "org/model", "tgi", "base"])
def test_names_that_are_taken_are_refused(adapted, folder, name):
    write_fake_adapter(folder / "new", 9)
    assert load(adapted, name, "new").status == 422
    assert adapted.service.model.adapters.names == ("french", "org/poems")


@pytest.mark.parametrize(
    "name", ["", "../../x", "a\nb", "a b", "x" * 300, "é", "<script>", "a/../b", "\x00"]
)
def test_names_that_make_no_sense_are_refused(adapted, folder, name):
    write_fake_adapter(folder / "new", 9)
    reply = load(adapted, name, "new")
    assert reply.status == 422 and b"`lora_name` must have" in reply.body


def test_the_number_of_adapters_is_bounded(adapted, folder):
    write_fake_adapter(folder / "new", 9)
    assert [load(adapted, f"a{i}", "new").status for i in range(4)] == [200, 200, 422, 422]
    assert b"takes no more" in load(adapted, "b", "new").body
    assert unload(adapted, "a0").status == 200
    assert load(adapted, "b", "new").status == 200


def test_loads_at_once_are_bounded_too(adapted, folder):
    write_fake_adapter(folder / "new", 9)

    async def all_at_once():
        return await asyncio.gather(
            *(
                adapted.exchange(
                    "POST",
                    "/v1/load_lora_adapter",
                    {"lora_name": f"a{i % 5}", "lora_path": "new"},
                )
                for i in range(20)
            )
        )

    replies = asyncio.run(all_at_once())
    assert sorted(reply.status for reply in replies) == [200] * 2 + [422] * 18
    assert len(adapted.service.model.adapters.names) == 4


def test_a_bad_adapter_is_refused_with_its_fault(adapted, folder):
    write_fake_adapter(folder / "new", 9)
    adapted.engine.faults["bad"] = "its rank is 1000000, and this server takes at most 256"
    reply = load(adapted, "bad", "new")
    assert reply.status == 422
    assert b"The adapter cannot be used: its rank is 1000000" in reply.body
    assert "bad" not in adapted.service.model.adapters.names


def test_only_folders_within_the_operators_can_be_loaded(adapted, folder, tmp_path):
    outside = write_fake_adapter(tmp_path / "outside", 1)
    write_fake_adapter(folder / "in", 1)
    (folder / "link").symlink_to(outside)
    (folder / "files").mkdir()
    (folder / "files" / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    (folder / "ring").symlink_to(folder / "ring")
    (folder / "file").write_text("x")
    wanted = ["../outside", str(outside), "in/../../outside", "link", "files", "ring", "file", "."]
    wanted += ["", "/", "/etc", "none", "x" * 5000, "\x00", "https://host/x", "org/name", "~"]
    for path in wanted:
        reply = load(adapted, "x", path)
        assert reply.status == 422, path
        assert b"no such folder within --lora-folder" in reply.body, path
        assert b"outside" not in reply.body
    assert load(adapted, "x", "in").status == 200


def test_links_within_the_folder_are_followed(folder):
    inside = write_fake_adapter(folder / "in", 1)
    (folder / "link").symlink_to(inside)
    assert adapter_within(folder, "link") == inside


def test_a_folder_that_is_gone_is_no_crash(tmp_path):
    with pytest.raises(BadAdapter):
        adapter_within(tmp_path / "gone", "x")


@pytest.mark.parametrize("body", [{}, {"lora_name": "a"}, {"lora_name": 1, "lora_path": "b"}, []])
def test_malformed_bodies_are_refused(adapted, body):
    assert adapted.post("/v1/load_lora_adapter", body).status == 422


def test_without_a_folder_there_are_no_routes(server):
    assert server.post("/v1/load_lora_adapter", {}).status == 404
    assert server.post("/v1/unload_lora_adapter", {}).status == 404


def test_the_routes_need_the_key_and_change_nothing_by_get(adapted, folder):
    write_fake_adapter(folder / "new", 9)
    adapted.with_options(adapter_folder=folder, api_keys=("k",))
    assert load(adapted, "a", "new").status == 401
    assert load(adapted, "a", "new", authorization="Bearer wrong").status == 401
    assert adapted.get("/v1/load_lora_adapter", {"authorization": "Bearer k"}).status == 405
    assert load(adapted, "a", "new", authorization="Bearer k").status == 200


def test_a_backend_without_adapters_loads_none(server, folder):
    write_fake_adapter(folder / "new", 9)
    reply = load(server.with_options(adapter_folder=folder), "a", "new")
    assert reply.status == 422 and b"holds no adapters" in reply.body


def test_strangers_never_get_the_routes(tmp_path):
    folder = AdapterSettings(folder=tmp_path)
    assert http_options(ServerSettings(), folder).adapter_folder == tmp_path
    assert http_options(ServerSettings(host="0.0.0.0", api_key=("k",)), folder).adapter_folder
    administered = ServerSettings(host="0.0.0.0", admin_api_key=("k",))
    assert http_options(administered, folder).adapter_folder
    with pytest.raises(UsageError, match="--api-key"):
        http_options(ServerSettings(host="0.0.0.0"), folder)
