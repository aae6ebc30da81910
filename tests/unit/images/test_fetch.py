"""Fetching: what a client writes never makes this server connect where it should not."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

import pytest

from tests.unit.images.certificate import CERTIFICATE
from tgi_core.errors import ValidationError
from tgi_core.images.fetch import FetchLimits, PinnedFetcher, is_public

URL = "https://images.example.com/cat.png"


@dataclass
class Site:
    """An https server on this machine that calls itself images.example.com."""

    port: int = 0
    answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Host and path of each request."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_text(CERTIFICATE)
    return ssl.create_default_context(cafile=str(path)), path


@pytest.fixture
def site(context: tuple[ssl.SSLContext, Path]) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.headers["Host"], self.path))
            site.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients hang up here

    server = Server(("127.0.0.1", 0), Handler)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(context[1])
    server.socket = ours.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.port = server.server_address[1]
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def new_fetcher(site: Site, context: tuple[ssl.SSLContext, Path]) -> Callable[..., PinnedFetcher]:
    """For the site; its address counts as public unless a test says otherwise."""

    def make(*hosts: str, **more: object) -> PinnedFetcher:
        given: dict[str, object] = {
            "resolve": lambda host: ["127.0.0.1"],
            "public": lambda address: True,
            "context": context[0],
            "port": site.port,
            **more,
        }
        return PinnedFetcher(hosts or ("images.example.com",), **given)  # type: ignore[arg-type]

    return make


def fetch(fetcher: PinnedFetcher, url: str = URL) -> bytes:
    return asyncio.run(fetcher.fetch(url))


def sends(body: bytes, status: int = 200, **headers: str) -> Callable[..., None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_file_of_a_trusted_host_is_fetched(site, new_fetcher):
    site.answer = sends(b"a file")
    assert fetch(new_fetcher(), URL + "?size=1") == b"a file"
    assert site.asked == [("images.example.com", "/cat.png?size=1")]
    for hosts in (("*",), ("*.example.com",), ("IMAGES.example.com",)):
        assert fetch(new_fetcher(*hosts)) == b"a file"


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/a",
        "ftp://images.example.com/a",
        "https://other.example.com/a",
        "https://images.example.com.evil.org/a",
        "https://evil-images.example.com/a",
        "https://images.example.com:8443/a",
        "https://user@images.example.com/a",
        "https://images.example.com@evil.org/a",
        "https://evil.org\\@images.example.com/a",
        "https://images.example.com\\.evil.org/a",
        "https:\\\\images.example.com/a",
        "https://images.example.com/a b",
        "https://images.example.com/a\r\nHost: evil.org",
        "https://images.example.com/\u00e9",
        "https://ima\tges.example.com/",
        "https://localhost/a",
        "https://127.0.0.1/a",
        "https://2130706433/a",
        "https://0x7f.1/a",
        "https://0177.0.0.1/a",
        "https://[::1]/a",
        "https://[::ffff:127.0.0.1]/a",
        "https://169.254.169.254/latest/meta-data",
        "https://[/a",
        "https://images.example.com:x/a",
        "https:///a",
        "https://images.example.com/" + "a" * 3000,
    ],
)
def test_other_addresses_are_not_even_looked_up(site, new_fetcher, url):
    looked_up: list[str] = []
    fetcher = new_fetcher("images.example.com", resolve=looked_up.append)
    with pytest.raises(ValidationError, match="Could not fetch image"):
        fetch(fetcher, url)
    assert not looked_up and not site.asked


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/a", "https://2130706433/a", "https://a.0x7f/", "https://a.12/b"]
)
def test_numbers_are_no_names_even_if_any_host_is_trusted(new_fetcher, url):
    with pytest.raises(ValidationError):
        fetch(new_fetcher("*", resolve=lambda host: []), url)


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
    255.255.255.255 192.0.2.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ::ffff:127.0.0.1
    ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2001:0:7f00:1:: ff02::1""".split(),
)
def test_addresses_of_this_network_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_addresses_of_the_world_are(address):
    assert is_public(address)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], []])
def test_a_name_with_any_private_address_is_refused(site, new_fetcher, addresses):
    fetcher = new_fetcher(resolve=lambda host: addresses, public=is_public)
    with pytest.raises(ValidationError, match="not public"):
        fetch(fetcher)
    assert not site.asked


def test_a_name_is_looked_up_once_so_that_it_cannot_change(site, new_fetcher):
    site.answer = sends(b"a file")
    looked_up: list[str] = []

    def resolve(host: str) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["192.0.2.1"]

    assert fetch(new_fetcher(resolve=resolve)) == b"a file"
    assert looked_up == ["images.example.com"]


def test_redirects_are_followed_and_checked_like_the_first_address(site, new_fetcher):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/cat.png":
            sends(b"", 302, Location="/moved.png")(handler)
        else:
            sends(b"moved")(handler)

    site.answer = answer
    assert fetch(new_fetcher()) == b"moved"
    for target in (
        "http://images.example.com/a",
        "https://other.org/",
        "//127.0.0.1/a",
        "file:///etc/passwd",
        "https://images.example.com:22/",
        "",
    ):
        site.asked.clear()
        site.answer = sends(b"", 302, Location=target)
        with pytest.raises(ValidationError, match="Could not fetch image"):
            fetch(new_fetcher())
        if target:
            assert len(site.asked) == 1


def test_a_redirect_to_a_name_that_turned_private_is_refused(site, new_fetcher):
    site.answer = sends(b"", 302, Location="https://b.example.com/a")
    addresses = {"images.example.com": "127.0.0.1", "b.example.com": "169.254.169.254"}
    fetcher = new_fetcher(
        "*", resolve=lambda host: [addresses[host]], public=lambda address: address == "127.0.0.1"
    )
    with pytest.raises(ValidationError, match="not public"):
        fetch(fetcher)
    assert len(site.asked) == 1


def test_redirects_end(site, new_fetcher):
    site.answer = sends(b"", 302, Location=URL)
    with pytest.raises(ValidationError, match="redirected more than 3 times"):
        fetch(new_fetcher())
    assert len(site.asked) == 4


@pytest.mark.parametrize("said", [True, False], ids=["said", "unsaid"])
def test_a_large_body_is_not_read_to_its_end(site, new_fetcher, said):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if said:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(1 << 16))

    site.answer = answer
    with pytest.raises(ValidationError, match="exceeds maximum allowed size of 100000 bytes"):
        fetch(new_fetcher(limits=FetchLimits(max_bytes=100_000)))


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_is_not_waited_for(site, new_fetcher, part):
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    site.answer = answer
    began = monotonic()
    with pytest.raises(ValidationError, match="Could not fetch image"):
        fetch(new_fetcher(limits=FetchLimits(timeout_s=0.3)))
    over.set()
    assert monotonic() - began < 10


@pytest.mark.parametrize("status", [204, 404, 500])
def test_other_answers_are_failures(site, new_fetcher, status):
    site.answer = sends(b"", status)
    with pytest.raises(ValidationError, match=f"status {status}"):
        fetch(new_fetcher())


def test_a_server_that_is_not_there_or_not_who_it_says_is_a_failure(site, new_fetcher):
    for fetcher, url in (
        (new_fetcher(port=1), URL),
        (new_fetcher("*"), "https://somebody.else.org/"),
        (new_fetcher(context=ssl.create_default_context()), URL),
    ):
        with pytest.raises(ValidationError, match="cannot be reached"):
            fetch(fetcher, url)
    assert not site.asked
