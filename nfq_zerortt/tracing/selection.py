"""Which flows are traced: all, one, or those of one endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing.packets import Packet

_ENDPOINT = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})")
_ALLOWED = (
    'a flow as the log writes it ("10.0.1.2:43210>10.0.3.2:80"), one endpoint '
    '("10.0.3.2:80", "[fd00::2]:80"), or '
)
OF_SERVICE = "the number of a flow of the running service"
"""What ``trace`` takes beside addresses."""
_OTHERS = "icmp or icmp6 or (ip6 and (ip6[6] == 0 or ip6[6] == 43 or ip6[6] == 44 or ip6[6] == 60))"
"""ICMP errors quote what they are about; behind extension headers ports are not found."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Packets of flows that have all of these endpoints: of every flow, if there are none."""

    endpoints: tuple[Endpoint, ...] = ()

    def takes(self, packet: Packet) -> bool:
        """Tell whether a packet belongs to it."""
        return all(end in (packet.source, packet.destination) for end in self.endpoints)

    def expression(self) -> str:
        """Return a filter for pcap-filter(7), which lets through no less."""
        terms = [f"(host {address} and tcp port {port})" for address, port in self.endpoints]
        return f"({' and '.join(terms) or 'tcp'}) or {_OTHERS}"


def parse(text: str, number: str = OF_SERVICE) -> Selection:
    """Read a flow or an endpoint; ConfigError if it is neither.

    ``number`` is what else would have been allowed, for the message.
    """
    endpoints = tuple(_endpoint(part) for part in text.split(">"))
    found = tuple(end for end in endpoints if end is not None)
    if len(found) < len(endpoints) or len(found) > 2:
        raise ConfigError(f"--flow {text!r}: allowed is {_ALLOWED}{number}")
    return Selection(found)


def _endpoint(part: str) -> Endpoint | None:
    match = _ENDPOINT.fullmatch(part.strip())
    if match is None or int(match[3]) > 65_535:
        return None
    try:
        return str(ip_address(match[1] or match[2])), int(match[3])
    except ValueError:
        return None
