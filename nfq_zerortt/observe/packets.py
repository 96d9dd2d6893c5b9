"""Events about single packets, made from what arrived and what was done with it."""

from __future__ import annotations

from typing import Any

from nfq_zerortt.core.actions import Accept, Action, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.flow import flow_name
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import names
from nfq_zerortt.wire.view import SegmentView, look

_ONWARD = {Side.CLIENT: "client_to_server", Side.SERVER: "server_to_client"}
_TOWARDS = {Side.SERVER: "client_to_server", Side.CLIENT: "server_to_client"}


def packet_event(
    raw: bytes | None, side: Side | None, action: Action
) -> tuple[str, dict[str, Any]] | None:
    """Return the event's name and fields for one action, or None for a report.

    ``raw`` is the packet that the action belongs to and ``side`` where it came from; both are
    None for what a timer sends.
    """
    if isinstance(action, Report):
        return None
    if isinstance(action, Send):
        return "packet.injected", {
            "direction": _TOWARDS[action.side],
            **_fields(action.data, action.data),
            "reason": action.reason,
        }
    if raw is None or side is None:
        return None
    direction = {"direction": _ONWARD[side]}
    reason = {"reason": action.reason}
    if isinstance(action, Replace):
        return "packet.rewritten", {**direction, **_fields(raw, action.data), **reason}
    if isinstance(action, Drop):
        return "packet.dropped", {**direction, **_fields(raw, None), **reason}
    assert isinstance(action, Accept)
    return "packet.forwarded", {**direction, **_fields(raw, raw), **reason}


def _fields(old: bytes, new: bytes | None) -> dict[str, Any]:
    before = _look(old)
    if before is None:
        return {"length": len(old)}
    fields: dict[str, Any] = {
        "flow": flow_name(before),
        "flags": names(before.flags),
        "seq": before.seq,
        "ack": before.ack,
    }
    after = _look(new) if new is not None else None
    if after is not None:
        fields |= {"new_seq": after.seq, "new_ack": after.ack}
    fields["length"] = before.payload_length
    return fields


def _look(raw: bytes) -> SegmentView | None:
    try:
        return look(raw)
    except WireError:
        return None
