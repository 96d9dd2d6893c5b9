"""What is wrong with bytes that are no TCP segment."""

from __future__ import annotations


class WireError(ValueError):
    """The bytes are not what they claim to be; the message says why in a few words."""


class CutOffError(WireError):
    """The packet is longer than the bytes that are there."""


class NotTcpError(WireError):
    """A valid packet, but without a TCP header: another protocol, or a later fragment."""
