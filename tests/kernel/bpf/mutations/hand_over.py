"""Mutants of the hand-over: the time in which a flow is in both places."""

from __future__ import annotations

from bpf.mutations.mutant import HEADER, SOURCE, mutants

MUTANTS = mutants(
    SOURCE,
    (
        "left: not counted",
        "__sync_fetch_and_add(&own->left,",
        "__sync_fetch_and_add(&own->left, 0 *",
    ),
    ("left: packets, not bytes", "packet->data ? packet->data : 1)", "1)"),
    ("left: bare ACKs not counted", "packet->data ? packet->data : 1)", "packet->data)"),
    ("left: not marked", "packet->skb->mark |= MARK_LEFT;", ";"),
    ("left: mark overwritten", "packet->skb->mark |= MARK_LEFT;", "packet->skb->mark = MARK_LEFT;"),
    ("handled: of any flow", "ours = done->ticket == flow->ticket;", "ours = 1;"),
    ("handled: nothing was left", "&& own->left &&", "&&"),
    ("handled: of the other side", "done->amount[side]", "done->amount[1 - side]"),
    (
        "handled: more than was left",
        "done->amount[side] == own->left",
        "done->amount[side] >= own->left",
    ),
    ("does not settle", "\town->settled = 1;", ""),
    (
        "does not settle in time",
        "if (!passed(now, flow->handed_over, LEAVE_FOR_NS) &&\n\t    !",
        "if (!",
    ),
    ("left: not seen", "\tnote(packet, tcp);\n", "\tif (!left)\n\t\tnote(packet, tcp);\n"),
    (
        "left: end not seen",
        "\tif (tcp->flags & (FIN | RST) || packet",
        "\tif (left)\n\t\t;\n\telse if (tcp->flags & (FIN | RST) || packet",
    ),
    ("done: own not taken", "\t\tcatch_up(own, done, side);\n", ""),
    ("done: other's not taken", "\t\tcatch_up(packet->other, done, 1 - side);\n", ""),
    (
        "done: sides swapped",
        "catch_up(packet->other, done, 1 - side);",
        "catch_up(packet->other, done, side);",
    ),
    (
        "done: what is behind taken",
        "if (ahead && ahead < HALF) {\n\t\tdirection",
        "if (ahead) {\n\t\tdirection",
    ),
    ("done: ACK behind taken", "if (newer && newer < HALF) {", "if (newer) {"),
    ("done: window of no newer ACK", "if (newer && newer < HALF) {", "if (newer < HALF) {"),
    ("done: window not taken", "\t\tdirection->window = done->window[side];\n", ""),
    ("done: data not counted", "\t\tdirection->octets += ahead;\n", ""),
    ("passing: not marked", "|= left ? MARK_LEFT : MARK_TRANSLATED;", "|= left ? MARK_LEFT : 0;"),
    ("passing: not left", "|= left ? MARK_LEFT : MARK_TRANSLATED;", "|= MARK_TRANSLATED;"),
    ("passing: translated", "if (packet->flow->flags & PASSING) {", "if (0) {"),
    (
        "passing: SYNs, too",
        "\tif (tcp->flags & SYN) {",
        "\tif (tcp->flags & SYN && !(packet->flow->flags & PASSING)) {",
    ),
    ("does not wait", "if (own->settled)\n", "if (1)\n"),
) + mutants(
    HEADER,
    ("waits 40 ms", "#define LEAVE_FOR_NS 100000000ull", "#define LEAVE_FOR_NS 40000000ull"),
    ("waits 150 ms", "#define LEAVE_FOR_NS 100000000ull", "#define LEAVE_FOR_NS 150000000ull"),
)
