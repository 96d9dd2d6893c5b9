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
        quote = packet.quote
        about_syn = quote is not None and not packet.to_server and quote.seq == flow.isn_client
        return ["about the SYN: the client, connected already, would ignore it"] * about_syn
    if segment.flags & tcp.SYN and packet.to_server and packet is not flow.syn:
        return ["the client's SYN again: it is answered here, the server is not asked twice"]
    early = flow.answered is None or packet.time_ns < flow.answered.time_ns
    if packet is flow.refusal or (segment.flags & tcp.RST and early):
        whose = "server" if not packet.to_server else "client"
        return [f"the {whose}'s RST; the other end knows other numbers"]
    if packet.to_server and early:
        what = "early data" if segment.payload_length else "early"
        return [f"{what}: it cannot be passed on before the server has answered"]
    return []
