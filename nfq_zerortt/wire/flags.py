"""The flag bits of a TCP header (RFC 9293, section 3.1; AE: RFC 9768; CWR, ECE: RFC 3168)."""

from __future__ import annotations

FIN = 0x001
SYN = 0x002
RST = 0x004
PSH = 0x008
ACK = 0x010
URG = 0x020
ECE = 0x040
CWR = 0x080
AE = 0x100

ECN = ECE | CWR | AE

_NAMES = (
    (SYN, "SYN"),
    (FIN, "FIN"),
    (RST, "RST"),
    (PSH, "PSH"),
    (ACK, "ACK"),
    (URG, "URG"),
    (ECE, "ECE"),
    (CWR, "CWR"),
    (AE, "AE"),
)


def names(flags: int) -> str:
    """Return the flags as people write them: ``SYN,ACK``; ``-`` for none."""
    return ",".join(name for bit, name in _NAMES if flags & bit) or "-"
