"""Which names a server of ours answers to.

A page elsewhere can point a name of its own at this machine (DNS rebinding); the browser then lets
it read whatever answers. The Host header still holds that name, so a server that answers only to
names it knows is out of reach. An address in digits is nobody's name.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]/@]+)(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


class HostGuard:
    """ASGI middleware: 400 for a Host header that names another server.

    `bound` is the address that the server listens on. Loopback names are always answered to; beyond
    loopback so are all addresses in digits and this machine's name. `also` are further names.
    """

    def __init__(self, app: App, bound: str, also: Sequence[str] = ()) -> None:
        self.app, self.open = app, not is_loopback(bound)
        names = ["localhost", bound, *also, *([socket.gethostname()] if self.open else [])]
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and self.allows(hosts[0].decode("latin-1")):
            return await self.app(scope, receive, send)
        message = f"this server answers to {', '.join(sorted(self.names))}, to no other Host"
        body = json.dumps({"error": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),  # a body, if there is one, is not read
        ]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def allows(self, header: str) -> bool:
        """Whether a Host header (name or address, perhaps with a port) is one of ours."""
        match = HEADER.fullmatch(header)
        if match is None:
            return False
        name = match[1].lower().strip("[]")
        return name in self.names or is_loopback(name) or (self.open and is_address(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_url(host: str) -> str:
    """The host as an address of the web writes it: with brackets around IPv6."""
    return f"[{host}]" if ":" in host else host


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
