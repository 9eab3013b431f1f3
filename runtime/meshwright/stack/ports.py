"""Ports of loopback, asked from the kernel."""

from __future__ import annotations

import socket
import sys

LOOPBACK = "127.0.0.1"


class Ports:
    """Ports that nobody else is given until this is closed.

    Each is held by a socket that does not listen. A program that asks for that very port gets it all the same
    (with SO_REUSEADDR, as servers have it), but the kernel gives it to none that wants just any port: not
    before the program starts, and not between its runs. Elsewhere than on Linux ports cannot be held.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, count: int) -> list[int]:
        """That many free ports."""
        taken = [_bound() for _ in range(count)]
        ports = [each.getsockname()[1] for each in taken]
        if sys.platform == "linux":
            self._held += taken
        else:
            _close(taken)
        return ports

    def close(self) -> None:
        """Let them all go."""
        _close(self._held)
        self._held.clear()


def url_of(listen: tuple[str, int]) -> str:
    """The URL of a server that listens on that host and port."""
    host, port = listen
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound() -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    return holder


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()
