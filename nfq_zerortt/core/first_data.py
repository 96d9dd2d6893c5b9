"""Which first bytes of a connection may reach the server's application twice without harm.

Data in a SYN may be delivered twice, if the network duplicates the SYN and the
server has forgotten the first one (RFC 7413, section 2.1). So *auto* carries
only what may be repeated by its own protocol's rules.
"""

from __future__ import annotations

_SAFE_METHODS = (b"GET ", b"HEAD ", b"OPTIONS ")
_TLS_HANDSHAKE = 22
_CLIENT_HELLO = 1


def may_be_repeated(data: bytes) -> bool:
    """Tell whether ``data`` begins with a TLS ClientHello or a safe HTTP request.

    A second ClientHello begins a handshake that nobody completes (RFC 8446, section 4.1.2; what
    a TLS client sends as early data is guarded by section 8 there). Safe methods ask for
    nothing to be changed (RFC 9110, section 9.2.1).
    """
    if data.startswith(_SAFE_METHODS):
        return True
    return len(data) > 5 and data[0] == _TLS_HANDSHAKE and data[1] == 3 and data[5] == _CLIENT_HELLO
