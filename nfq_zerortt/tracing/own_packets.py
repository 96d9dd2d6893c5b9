"""What a packet was for that the service has made itself, as far as the others show it."""

from __future__ import annotations

from nfq_zerortt.readable import counted
from nfq_zerortt.tracing.known import Known
from nfq_zerortt.tracing.packets import Packet, Role, follows_soon, segment_of
from nfq_zerortt.tracing.words import later_by
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import distance

_NOT_SEEN = "why is not to be seen here"
_IN_THE_LOG = f"{_NOT_SEEN}: the service's log has it (flow.reset)"


def reason(flow: Known, packet: Packet) -> str:
    """Say what it was for, or that this does not show."""
    return _for_server(flow, packet) if packet.to_server else _for_client(flow, packet)


def _for_client(flow: Known, packet: Packet) -> str:
    segment = segment_of(packet)
    if segment.flags & tcp.RST:
        return _why_client_is_reset(flow, packet)
    if segment.payload_length:
        return "its data is not seen coming from the server"
    blocks = segment.readable_options.sack_blocks
    if blocks and distance(blocks[0][1], segment.ack) >= 0:
        return _why_duplicate(flow, blocks[0])
    answer, asked = flow.answered, flow.last_syn
    if answer is not None and follows_soon(answer, packet):
        taken = distance(flow.isn_client or 0, segment_of(answer).ack) - 1
        if segment.ack == segment_of(answer).ack and taken > 0:
            return (
                f"acknowledges the {taken} bytes that the SYN carried: the server has taken them "
                f"({answer.tag})"
            )
    if asked is not None and asked is not flow.syn and follows_soon(asked, packet):
        return (
            f"an ACK in answer to the SYN {asked.tag}, which may be a stranger's "
            "(RFC 5961, section 4.2)"
        )
    return _NOT_SEEN


def _why_client_is_reset(flow: Known, packet: Packet) -> str:
    refused, gone = flow.refusal, flow.unreachable
    if refused is not None:
        return (
            f"the server has refused the connection ({refused.tag}); the client, which "
            "believes that it is connected, gets a RST with numbers that it accepts"
        )
    if gone is not None and gone.quote is not None:
        return f"the SYN could not be delivered: ICMP {gone.quote.error} ({gone.tag})"
    if flow.answered is None and flow.syns_left:
        first = flow.syns_left[0]
        return (
            f"the server has answered none of {counted(len(flow.syns_left), 'SYN')}, the first "
            f"of them {first.tag} {later_by(first, packet)} before"
        )
    return _IN_THE_LOG


def _why_duplicate(flow: Known, block: tuple[int, int]) -> str:
    needless = [
        p.tag
        for _, _, p in flow.recent
        if p.role is Role.UNKNOWN
        and distance(block[0], segment_of(p).seq) >= 0
        and distance(segment_of(p).end_seq, block[1]) >= 0
    ]
    what = f" ({', '.join(needless)})" if needless else ""
    return (
        f"a D-SACK (RFC 2883) for {block[0]}:{block[1]}: what the client has sent "
        f"again{what} and was not passed on had not been lost"
    )


def _for_server(flow: Known, packet: Packet) -> str:
    segment, answer = segment_of(packet), flow.last_answer
    if segment.flags & tcp.RST:
        return _why_server_is_reset(flow)
    if segment.payload_length:
        return "its data is not seen coming from the client"
    if answer is not None and flow.first_onward is None:
        return f"completes the handshake with the server ({answer.tag}) in the client's name"
    if answer is not None and answer is not flow.answered and follows_soon(answer, packet):
        return f"the answer to the repeated SYN-ACK {answer.tag}"
    return _NOT_SEEN


def _why_server_is_reset(flow: Known) -> str:
    if flow.given_up is not None:
        return f"the client has reset the connection ({flow.given_up.tag})"
    answer = flow.last_answer
    if answer is not None and flow.isn_client is not None:
        most = 1 + max((segment_of(p).payload_length for p in flow.syns_left), default=0)
        taken = distance(flow.isn_client, segment_of(answer).ack)
        if not 1 <= taken <= most:
            return f"{answer.tag} acknowledges what no SYN here has sent"
    return _IN_THE_LOG
