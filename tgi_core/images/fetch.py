"""Fetches images from hosts that the operator trusts, and from nowhere else.

What a client writes as an address is an order to this server to connect somewhere. So: https
alone, on its own port, to names that are on a list; every address that a name has must be a public
one, and the connection goes to the very address that was checked; a redirect is checked like the
first address; size, time and number are bounded. Proxies and cookies are not known.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from threading import Timer
from time import monotonic
from urllib.parse import urljoin, urlsplit

from tgi_core.errors import ValidationError

_AT_ONCE = 8
_MAX_REDIRECTS = 3
_MAX_URL_CHARS = 2048
_READ_BYTES = 64 << 10
_NAT64 = IPv6Network("64:ff9b::/96")
_PORT = 443
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))+\.?")
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "Accept": "image/png, image/jpeg, image/webp, image/gif",
    "Accept-Encoding": "identity",
    "User-Agent": "tgi-core",
}

IpAddress = IPv4Address | IPv6Address
Resolver = Callable[[str], list[str]]
"""Name of a host -> its addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What a fetch may cost."""

    max_bytes: int = 20_000_000
    timeout_s: float = 10.0
    """From the look-up of the name to the last byte, redirects included."""


def addresses_of(host: str) -> list[str]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(text: str) -> bool:
    """Whether an address belongs to the world: not to this machine, this network, or a cloud."""
    address: IpAddress = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        # IPv4 within IPv6 is judged as what it leads to
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if address.teredo is not None or address in _NAT64:
            return False
    return address.is_global and not address.is_multicast


class PinnedFetcher:
    """Satisfies `Fetcher`. Use from one event loop."""

    def __init__(
        self,
        hosts: Collection[str],
        limits: FetchLimits | None = None,
        *,
        resolve: Resolver = addresses_of,
        public: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
        port: int = _PORT,
    ) -> None:
        """`hosts` are names; *.example.com is any name below that one, and * is any at all.

        The other arguments are for tests, whose servers are on this machine.
        """
        self._any = "*" in hosts
        self._hosts = frozenset(host.lower() for host in hosts if not host.startswith("*"))
        self._below = tuple(host[1:].lower() for host in hosts if host.startswith("*."))
        self._limits = limits or FetchLimits()
        self._resolve = resolve
        self._public = public
        self._context = context or ssl.create_default_context()
        self._port = port
        self._threads = ThreadPoolExecutor(_AT_ONCE, "fetch")
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """The body behind an address; see `Fetcher.fetch`."""
        self._host(url)  # before anybody waits for a thread
        try:
            return await asyncio.wait_for(self._fetch(url), self._limits.timeout_s)
        except asyncio.TimeoutError as error:
            raise _failed(f"it took more than {self._limits.timeout_s:g} s") from error

    async def _fetch(self, url: str) -> bytes:
        async with self._room:
            deadline_s = monotonic() + self._limits.timeout_s
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, self._follow, url, deadline_s)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # the thread ends at its deadline; nobody wants to hear what of
                work.add_done_callback(lambda done: done.cancelled() or done.exception())
                raise

    def _follow(self, url: str, deadline_s: float) -> bytes:
        """Runs in a thread."""
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                found = self._get(url, deadline_s)
            except (OSError, http.client.HTTPException) as error:
                raise _failed("its server cannot be reached, or does not speak HTTP") from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _failed(f"it was redirected more than {_MAX_REDIRECTS} times")

    def _get(self, url: str, deadline_s: float) -> bytes | str:
        """The body; or, as text, where it is instead."""
        host = self._host(url)
        address = self._address(host)
        left_s = deadline_s - monotonic()
        if left_s <= 0:
            raise _failed("it took too long")
        parts = urlsplit(url)
        connection = _Pinned(host, address, self._port, self._context, left_s)
        # a server that sends a byte now and then would otherwise be waited for without end
        watch = Timer(left_s, connection.cut)
        watch.daemon = True
        watch.start()
        try:
            target = parts.path or "/"
            if parts.query:
                target += f"?{parts.query}"
            connection.request("GET", target, headers=_HEADERS)
            with connection.getresponse() as response:
                if response.status in _REDIRECTS:
                    return response.headers.get("Location") or ""
                if response.status != http.client.OK:
                    raise _failed(f"its server answered with status {response.status}")
                return self._body(response)
        finally:
            watch.cancel()
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        most = self._limits.max_bytes
        body = bytearray()
        if response.length is not None and response.length > most:
            raise ValidationError(
                f"Image size {response.length} bytes exceeds maximum allowed size of {most} bytes"
            )
        while chunk := response.read(_READ_BYTES):
            body += chunk
            if len(body) > most:
                raise ValidationError(
                    f"Image size {len(body)} bytes exceeds maximum allowed size of {most} bytes"
                )
        return bytes(body)

    def _host(self, url: str) -> str:
        """The host of an address that may be fetched.

        Raises:
            ValidationError: it may not; says why.
        """
        # other parsers read \ as /, drop tabs and line ends, and split at other places than ours
        if len(url) > _MAX_URL_CHARS or re.fullmatch(r"[!-\[\]-~]+", url) is None:
            raise _failed("its address is too long, or holds characters that addresses do not have")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _failed("its address makes no sense") from error
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme != "https":
            raise _failed("only https is spoken here")
        if "@" in parts.netloc or port not in (None, _PORT) or _NAME.fullmatch(host) is None:
            raise _failed("its address must be https:// and the name of a host, without a port")
        if host.rpartition(".")[2].isdigit():
            raise _failed("its address must name a host, not give its number")
        if not (self._any or host in self._hosts or host.endswith(self._below)):
            raise _failed(f"{host} is not among the hosts that this server fetches from")
        return host

    def _address(self, host: str) -> str:
        addresses = self._resolve(host)
        if not addresses or not all(map(self._public, addresses)):
            raise _failed(f"{host} has an address that is not public, or none")
        return addresses[0]


class _Pinned(http.client.HTTPSConnection):
    """Connects to an address that was checked, and asks there for the name."""

    def __init__(
        self, host: str, address: str, port: int, context: ssl.SSLContext, timeout_s: float
    ) -> None:
        super().__init__(host, _PORT, timeout=timeout_s, context=context)
        self._address, self._to_port, self._tls = address, port, context

    def connect(self) -> None:
        """Without a look-up: the name might have another address by now."""
        plain = socket.create_connection((self._address, self._to_port), self.timeout)
        self.sock = plain
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)

    def cut(self) -> None:
        """Wakes whoever waits for the other side."""
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself


def _failed(why: str) -> ValidationError:
    return ValidationError(f"Could not fetch image: {why}")
