"""Which first bytes of a connection may reach the server's application twice without harm.

Data in a SYN may be delivered twice, if the network duplicates the SYN and the
server has forgotten the first one (RFC 7413, section 2.1). So *auto* carries
only what may be repeated by its own protocol's rules.
"""

from __future__ import annotations

_SAFE_METHODS = (b"GET ", b"HEAD ", b"OPTIONS ")
_END_OF_HEADERS = b"\r\n\r\n"
_TLS_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RECORD_HEADER = 5


def repeatable(data: bytes) -> bytes:
    """Return what ``data`` has at its beginning of a TLS ClientHello or a safe HTTP request.

    A second ClientHello begins a handshake that nobody completes (RFC 8446, section 4.1.2); what
    comes behind its record, as early data, is left out. Safe methods ask for nothing to be changed
    (RFC 9110, section 9.2.1); what comes behind the first request's headers is left out.
    """
    if data.startswith(_SAFE_METHODS):
        end = data.find(_END_OF_HEADERS)
        return data if end < 0 else data[: end + len(_END_OF_HEADERS)]
    if (
        len(data) > _RECORD_HEADER
        and data[0] == _TLS_HANDSHAKE
        and data[1] == 3
        and data[_RECORD_HEADER] == _CLIENT_HELLO
    ):
        return data[: _RECORD_HEADER + int.from_bytes(data[3:5], "big")]
    return b""
