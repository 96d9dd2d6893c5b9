"""Addresses and ports as text, and back: ``10.0.3.2:80``, ``[fd00::1]:80``."""

from __future__ import annotations

import re
import socket

_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
_ENDPOINT = re.compile(r"(?:\[([0-9a-f]*:[0-9a-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", re.ASCII)


def address_text(address: bytes) -> str:
    """Write an address of 4 or 16 bytes in network order."""
    # inet_ntop is arithmetic on text, and ten times as fast as the ipaddress module.
    return socket.inet_ntop(_FAMILIES[len(address)], address)


def endpoint_text(address: bytes, port: int) -> str:
    """Write an address and a port."""
    text = address_text(address)
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"


def server_text(server: bytes) -> str:
    """Write what the core knows servers and clients by: address and port in network order."""
    return endpoint_text(server[:-2], int.from_bytes(server[-2:], "big"))


def read_address(text: str) -> bytes:
    """Return the address that :func:`address_text` wrote.

    Raises:
        ValueError: it is no address.
    """
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        raise ValueError(f"{text!r} is no address") from None


def read_server(text: str) -> bytes:
    """Return the address and port that :func:`server_text` wrote.

    Raises:
        ValueError: it is no address with a port.
    """
    found = _ENDPOINT.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f"{text!r} is no address with a port")
    return read_address(found[1] or found[2]) + int(found[3]).to_bytes(2, "big")
