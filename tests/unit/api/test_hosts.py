"""By which names a server may be called."""

from __future__ import annotations

import pytest

from tests.exposition import samples

EVIL = "evil.example:3000"


@pytest.mark.parametrize(
    "host",
    [
        "localhost:3000", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1:3000", "[::1]:3000",
        "[::1]", "10.1.2.3:80", "tgi:8080", "models.localhost", "host.docker.internal:3000", "",
    ],
)  # fmt: skip
def test_who_asks_by_an_address_or_by_a_name_of_nobodys_is_answered(server, host):
    server.with_options(local=True)
    assert server.get("/info", {"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        EVIL, "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[evil.example]",
        "127.0.0.1@evil.example", "evil.example.", "0x7f.1.evil", "notlocal.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/info", "/metrics", "/v1/models", "/health", "/nothing"])
def test_a_page_whose_name_was_made_to_point_here_reads_nothing(server, host, path):
    server.with_options(local=True)
    reply = server.get(path, {"host": host})
    assert (reply.status, b"--allowed-host" in reply.body) == (403, True)
    assert server.get(path, [("host", "localhost"), ("host", host)]).status == 403


def test_a_name_that_was_given_is_known(server):
    server.with_options(local=True, allowed_hosts=("Models.example",))
    assert server.get("/info", {"host": "models.EXAMPLE:443"}).status == 200
    assert server.get("/info", {"host": "localhost:3000"}).status == 200
    assert server.get("/info", {"host": "other.example"}).status == 403


def test_programs_that_say_no_name_pass(server):
    server.with_options(local=True)
    assert server.get("/info").status == 200


def test_a_server_for_others_has_names_that_it_does_not_know(server):
    assert server.get("/info", {"host": EVIL}).status == 200


def test_refusals_are_counted_and_logged(server, caplog):
    server.with_options(local=True)
    server.get("/info", {"host": EVIL})
    server.post("/generate", {"inputs": "x"}, headers={"origin": "http://evil.example"})
    assert [line.getMessage() for line in caplog.records if "Refused" in line.getMessage()] == [
        "Refused: a host name that is not allowed",
        "Refused: a page of an origin that is not allowed",
    ]
    found = samples(server.get("/metrics").body)
    assert found["tgi_refused_requests_total{reason=host}"] == 1
    assert found["tgi_refused_requests_total{reason=origin}"] == 1
    assert not server.engine.generations
