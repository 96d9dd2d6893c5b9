"""Where a capture is judged; :mod:`support.judge` says what is right."""

from __future__ import annotations

from dataclasses import dataclass

from support.captures import CLIENT_SIDE, SERVER_SIDE, Captures
from support.judge.downward import check_downward
from support.judge.handshakes import check_spaces, check_syn_acks, check_syns
from support.judge.links import check_checksums, check_links
from support.judge.two_sides import TwoSides
from support.judge.upward import check_not_carried, check_upward
from support.reading import Key, Side, connections, stream


@dataclass(frozen=True)
class Translated:
    """A connection that passed the check, and how it was translated."""

    key: Key
    delta: int
    tau: int | None
    isn_client: int
    isn_spoofed: int
    isn_server: int
    client_side: Side
    server_side: Side
    sent: bytes
    """What the client sent, as reassembled on either side."""
    answered: bytes


def check_captures(
    captures: Captures, *, may_reset: bool = False, complete: bool = True, lossy: bool = False
) -> list[Translated]:
    """Check a capture of connections that were translated, and return these.

    ``may_reset``: RSTs of the service's own are allowed. ``complete``: all that either side
    sent came to the other. ``lossy``: the WAN loses packets.
    """
    check_checksums(captures)
    check_links(captures, lossy=lossy)
    client_side = connections(captures.packets[CLIENT_SIDE])
    server_side = connections(captures.packets[SERVER_SIDE])
    assert client_side, "nothing was captured"
    assert set(client_side) == set(server_side), "one side saw a connection the other did not"
    return [
        Judged(key, client_side[key], server_side[key], may_reset).check(complete)
        for key in client_side
    ]


class Judged(TwoSides):
    """One connection, and all that must be true of it."""

    def check(self, complete: bool) -> Translated:
        check_syns(self)
        check_syn_acks(self)
        check_spaces(self)
        self.check_not_carried(check_upward(self))
        check_downward(self)
        self.wrong.fail_if_any()
        return self.check_streams(complete)

    def check_not_carried(self, carried: set[int]) -> None:
        check_not_carried(self, carried)

    def check_streams(self, complete: bool) -> Translated:
        sent, received = stream(self.near.up, self.syn.seq), stream(self.far.up, self.syn.seq)
        answered = stream(self.far.down, self.real.seq)
        returned = stream(self.near.down, self.spoofed.seq)
        assert sent.startswith(received), f"{self.key}: what the client sent was changed"
        assert answered.startswith(returned), f"{self.key}: what the server sent was changed"
        if complete:
            assert len(sent) == len(received), f"{self.key}: {len(received)} of {len(sent)} bytes"
            assert len(answered) == len(returned), (
                f"{self.key}: {len(returned)} of {len(answered)} bytes"
            )
        return Translated(
            self.key,
            self.delta,
            self.tau,
            self.syn.seq,
            self.spoofed.seq,
            self.real.seq,
            self.near,
            self.far,
            sent,
            answered,
        )
