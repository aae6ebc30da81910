"""What the operator decided about the HTTP surface, as the application takes it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tgi_core.config.settings import AdapterSettings, Compat, ServerSettings
from tgi_core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Who may call which routes, and in whose shape they answer."""

    api_keys: tuple[str, ...] = ()
    """Any one of them opens the routes; none leaves all routes open."""
    admin_keys: tuple[str, ...] = ()
    """They open what changes the server as well, which others' keys do no more."""
    allow_origins: tuple[str, ...] = ()
    """Web pages that may call this server; "*" is any."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients may call the server by; "*" is any."""
    local: bool = False
    """Whether only this machine can reach the server."""
    compat: Compat = Compat.OPENAI
    predict_route: str | None = None
    """Vertex AI's name for /vertex."""
    health_route: str | None = None
    """Vertex AI's name for /health."""
    adapter_folder: Path | None = None
    """Where adapters may be loaded from at run time; None leaves the routes for it out."""

    @property
    def guards_host(self) -> bool:
        """Whether names matter: if they were given, or if nothing else keeps pages of others out.

        A server for others has names that it does not know; of a keyless one that only this machine
        can reach, a browser is the way in.
        """
        if "*" in self.allowed_hosts or "*" in self.allow_origins:
            return False
        return bool(self.allowed_hosts) or (self.local and not self.api_keys)


def http_options(server: ServerSettings, adapters: AdapterSettings | None = None) -> HttpOptions:
    """From the settings.

    Raises:
        UsageError: whoever reaches the server could load adapters.
    """
    folder = adapters.folder if adapters is not None else None
    keys = (*server.api_key, *server.admin_api_key)
    if folder is not None and not keys and not _is_loopback(server.host):
        raise UsageError(
            f"--lora-folder lets clients load adapters, and --host {server.host} lets other "
            "machines in: set --admin-api-key or --api-key, or listen on 127.0.0.1."
        )
    return HttpOptions(
        api_keys=server.api_key,
        admin_keys=server.admin_api_key,
        # TGI let any page in, unless it was told which
        allow_origins=server.cors_allow_origin or (("*",) if server.compat is Compat.TGI else ()),
        allowed_hosts=server.allowed_host,
        local=_is_loopback(server.host),
        compat=server.compat,
        predict_route=server.aip_predict_route,
        health_route=server.aip_health_route,
        adapter_folder=folder,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
