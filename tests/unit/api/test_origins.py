"""What pages in a browser may do."""

from __future__ import annotations

import pytest

PROMPT = {"inputs": "x"}
EVIL = "http://evil.example"
FRIEND = "https://friend.example"


def preflight(server, origin):
    return server.request(
        "OPTIONS",
        "/v1/chat/completions",
        {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-api-key",
        },
    )


def test_unless_told_otherwise_no_page_is_let_in(server):
    reply = preflight(server, EVIL)
    assert reply.status == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_named_page_may_send_its_key(server):
    server.with_options(allow_origins=(FRIEND,), api_keys=("k",))
    reply = preflight(server, FRIEND)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == FRIEND
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in reply.headers
    headers = {"origin": FRIEND, "authorization": "Bearer k"}
    reply = server.post("/generate", PROMPT, headers=headers)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, FRIEND)


@pytest.mark.parametrize("origin", [EVIL, "null", FRIEND + ".evil.example", FRIEND.upper()])
def test_other_pages_are_not(server, origin):
    server.with_options(allow_origins=(FRIEND,))
    assert "access-control-allow-origin" not in preflight(server, origin).headers
    assert server.post("/generate", PROMPT, headers={"origin": origin}).status == 403


def test_a_star_lets_any_page_in(server):
    server.with_options(allow_origins=("*",))
    assert preflight(server, EVIL).headers["access-control-allow-origin"] == "*"
    reply = server.post("/generate", PROMPT, headers={"origin": EVIL})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("local", "origin", "host", "status"),
    [
        # a page made to point here: the browser takes it for one of this server
        (True, "http://evil.example:3000", "evil.example:3000", 403),
        (True, "http://localhost:3000", "localhost:3000", 200),
        (True, "http://127.0.0.1:8080", "127.0.0.1:3000", 200),
        (True, "http://[::1]:8080", "localhost:3000", 200),
        (True, "http://localhost.evil.example", "localhost:3000", 403),
        (True, "null", "localhost:3000", 403),
        (True, "http://[", "localhost:3000", 403),
        # a server for others has names that it does not know
        (False, "https://models.example", "models.example", 200),
        (False, "https://evil.example", "models.example", 403),
        (False, "null", "null", 403),
    ],
)
def test_a_page_of_somewhere_else_cannot_generate(server, local, origin, host, status):
    server.with_options(local=local)
    headers = {"origin": origin, "host": host}
    assert server.post("/generate", PROMPT, headers=headers).status == status
    assert len(server.engine.generations) == (status == 200)


def test_programs_have_no_origin_and_pass(server):
    server.with_options(local=True)
    assert server.post("/generate", PROMPT, headers={"host": "127.0.0.1:3000"}).status == 200


def test_a_form_of_a_strange_page_is_no_request(server):
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = server.post("/generate", PROMPT, headers={"content-type": media_type})
        assert reply.status == 415
    assert not server.engine.generations
