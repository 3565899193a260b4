"""Nobody else is talked to: not by the process that serves the page, and not by the browser that shows it."""

import ipaddress
import sys
from typing import Any

HERE = ("", "localhost", "127.0.0.1")
POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page has scripts and styles in itself, and makes functions of its components' templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
    )
)
"""What a browser may load for the page (Content-Security-Policy): nothing that another machine has."""
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class OwnHeaders:
    """ASGI middleware that adds HEADERS to every answer."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def check_host(host: str) -> str:
    """The address to listen at. Raises ValueError for what is none."""
    try:
        return "127.0.0.1" if host == "localhost" else str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise ValueError(f"--host {host}: expected an IPv4 address of this machine, such as 127.0.0.1") from error


def is_loopback(host: str) -> bool:
    return ipaddress.IPv4Address(host).is_loopback


def hosts_of(host: str) -> list[str]:
    """The names under which browsers may ask for the page; where it is open to all machines, whatever they call it.

    A page elsewhere whose name was turned to point here is none of them.
    """
    return ["*"] if ipaddress.IPv4Address(host).is_unspecified else [*HERE[1:], host]


def is_here(host: Any, own: str) -> bool:
    """Whether an address, or a name before it is looked up, is this machine's."""
    text = host.decode(errors="replace") if isinstance(host, bytes) else host
    if text is None or text in (*HERE, own):
        return True
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def stay_here(own: str) -> None:
    """From now on this process opens no connection to another machine and looks up no other's name.

    An audit hook, which holds whatever library tries, and as long as the process lives. Answering those who connect to
    `own`, the address that is listened at, is not touched.
    """

    def refuse(event: str, arguments: tuple) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            place = arguments[1]
            # Addresses of other kinds than (host, port, …) are those of sockets in the file system.
            host = place[0] if isinstance(place, tuple) else None
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]
        else:
            return
        if not is_here(host, own):
            raise PermissionError(f"the demo talks to no other machine, and something asked for {host!r}")

    sys.addaudithook(refuse)
