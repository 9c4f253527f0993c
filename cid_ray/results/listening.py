"""Sockets of the live page: ports, addresses, and what a request may call the server."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from cid_ray.config import InputError

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_PORT = 8266
MAX_PORTS_TRIED = 50


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket.

    Args:
        host: address to listen on.
        port: the port; None takes the first free one from DEFAULT_PORT on.

    Raises:
        InputError: the port is taken or invalid, or the address does not belong to this machine.
    """
    last = DEFAULT_PORT + MAX_PORTS_TRIED - 1
    for candidate in [port] if port is not None else range(DEFAULT_PORT, last + 1):
        try:
            return _bind(host, candidate)
        except (OSError, OverflowError) as error:  # OverflowError: no port number
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if port is None and is_taken:
                continue
            option = f"--port {port}" if port is not None else f"--host {host}"
            raise InputError(
                f"{option} cannot be listened on ({_reason(error)}); "
                "choose another, or leave it out"
            ) from None
    raise InputError(f"ports {DEFAULT_PORT} to {last} are all taken; choose one with --port")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # without the address, which the message names
    return str(error)


def free_port_after(port: int) -> int:
    """The first free port on loopback above `port`.

    Raises:
        InputError: none of the next MAX_PORTS_TRIED ports is free.
    """
    for candidate in range(port + 1, port + 1 + MAX_PORTS_TRIED):
        try:
            _bind(LOOPBACK, candidate).close()
        except (OSError, OverflowError):
            continue
        return candidate
    raise InputError(
        f"no port is free after {port} for optuna-dashboard; leave it out with --no-optuna"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str) -> tuple[str, ...]:
    """What a request may call a server on this address; empty allows any name.

    A server that listens on the network is meant to be reached under names that it cannot know.
    """
    return tuple(dict.fromkeys([*LOOPBACK_NAMES, host])) if is_loopback(host) else ()


def url_host(host: str) -> str:
    """The address as it is written in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def host_name(header: str) -> str:
    """The name in a request's Host header: lower case, without the port."""
    before, _, after = header.rpartition(":")
    return (before if after.isdigit() else header).lower()
