"""Why a packet came and did not leave, as far as the others show it."""

from __future__ import annotations

from nfq_zerortt.tracing.known import Known
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.wire import flags as tcp


def reason(flow: Known, packet: Packet) -> list[str]:
    """Say what is known of a packet that came and was not seen to leave."""
    segment = packet.segment
    if flow.spoofed is None:
        return []
    if segment is None:
        early = packet is flow.unreachable
        return ["about the SYN: the client, connected already, would ignore it"] if early else []
    if segment.flags & tcp.SYN and packet.to_server and packet is not flow.syn:
        return ["the client's SYN again: it is answered here, the server is not asked twice"]
    if packet is flow.refusal or (segment.flags & tcp.RST and flow.answered is None):
        whose = "server" if not packet.to_server else "client"
        return [f"the {whose}'s RST; the other end knows other numbers"]
    early = flow.answered is None or packet.time_ns < flow.answered.time_ns
    if packet.to_server and early:
        return ["early data: it cannot be passed on before the server has answered"]
    return []
