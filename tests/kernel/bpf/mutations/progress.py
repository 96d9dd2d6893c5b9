"""Mutants of what the programs note of a flow: how far it has come, and its end."""

from __future__ import annotations

from bpf.mutations.mutant import SOURCE, mutants

MUTANTS = mutants(
    SOURCE,
    # How far both sides have come.
    ("ack without the flag believed", "\tif (!(tcp->flags & ACK))\n\t\treturn;\n", ""),
    ("any ack believed", "within(ack, own->last_ack, other->next_seq)", "1"),
    (
        "ack believed as it came",
        "bpf_ntohl(tcp->ack) + own->ack_shift;\n\n",
        "bpf_ntohl(tcp->ack);\n\n",
    ),
    (
        "newest ack not believed",
        "within(ack, own->last_ack, other->next_seq)",
        "within(ack, own->last_ack, other->next_seq - 1)",
    ),
    (
        "window not noted",
        "own->last_ack = ack;\n\t\town->window = bpf_ntohs(tcp->window);",
        "own->last_ack = ack;",
    ),
    (
        "window noted rescaled",
        "own->window = bpf_ntohs(tcp->window);",
        "own->window = rescaled(bpf_ntohs(tcp->window), own->window_shift);",
    ),
    ("data far off believed", "if (ahead <= room && room < HALF)", "if (ahead <= room)"),
    ("data to the border not believed", "if (ahead <= room &&", "if (ahead < room &&"),
    ("less slack", "#define SLACK 65536u", "#define SLACK 65535u"),
    ("more slack", "#define SLACK 65536u", "#define SLACK 65537u"),
    (
        "scale too small",
        "((__u32)other->window << (other->scale & 15)) +\n",
        "((__u32)other->window << (other->scale & 7)) +\n",
    ),
    (
        "own scale",
        "((__u32)other->window << (other->scale & 15)) +\n",
        "((__u32)other->window << (own->scale & 15)) +\n",
    ),
    ("repetitions counted", "own->octets += ahead;", "own->octets += packet->data;"),
    (
        "padding is data",
        "packet->data = size - length;",
        "packet->data = packet->skb->len - packet->tcp_at - length;",
    ),
    ("segments not counted", "packet->skb->gso_segs ? packet->skb->gso_segs : 1;", "1;"),
    ("last_seen not noted", "packet->flow->last_seen = now;", ""),
    # FIN and RST.
    (
        "any FIN believed",
        "within(end_seq, other->last_ack, other->last_ack + window + 1 + FIN_SLACK)) {",
        "1) {",
    ),
    ("FIN: border", "window + 1 + FIN_SLACK)) {", "window + FIN_SLACK)) {"),
    ("FIN: border, other way", "window + 1 + FIN_SLACK)) {", "window + 2 + FIN_SLACK)) {"),
    ("FIN: no slack", "window + 1 + FIN_SLACK)) {", "window + 1)) {"),
    (
        "FIN uses no number",
        "__u32 end_seq = seq + packet->data + 1;",
        "__u32 end_seq = seq + packet->data;",
    ),
    (
        "FIN: end not noted",
        "own->fin_end = end_seq;",
        "if (!(flow->flags & fin))\n\t\t\t\town->fin_end = end_seq;",
    ),
    ("FIN goes back", "if (ahead && ahead < HALF) {\n\t\t\t\town", "if (ahead) {\n\t\t\t\town"),
    ("FIN is data", "own->octets += ahead - 1;", "own->octets += ahead;"),
    (
        "FIN of the other",
        "== CLIENT ? FIN_CLIENT : FIN_SERVER;",
        "== CLIENT ? FIN_SERVER : FIN_CLIENT;",
    ),
    ("RST not where acknowledged", "if (seq == other->last_ack || ", "if ("),
    ("RST not at what was sent", "seq == own->next_seq ||", "0 ||"),
    ("RST not at the FIN", "(flow->flags & fin && seq == own->fin_end - 1)", "0"),
    ("RST behind the FIN", "seq == own->fin_end - 1)", "seq == own->fin_end)"),
    ("RST at a FIN never sent", "(flow->flags & fin && seq", "(seq"),
    ("any RST", "if (seq == other->last_ack || ", "if (1 || "),
    ("RST of the other", "CLIENT ? RST_CLIENT : RST_SERVER", "CLIENT ? RST_SERVER : RST_CLIENT"),
    ("RST after the end", "\tif (flow->flags & ENDED)\n\t\treturn;\n", ""),
    (
        "FIN of one is enough",
        "== (FIN_CLIENT | FIN_SERVER) &&\n\t\t   other",
        "!= 0 &&\n\t\t   other",
    ),
    ("FINs: own not acknowledged", "other->last_ack == own->fin_end &&", "1 &&"),
    ("FINs: other's not acknowledged", "own->last_ack == other->fin_end)", "1)"),
    (
        "FINs: only the number itself",
        "other->last_ack == own->fin_end &&",
        "other->last_ack - own->fin_end < HALF &&",
    ),
    (
        "later ACKs not looked at",
        "if (tcp->flags & (FIN | RST) || packet->flow->flags & (FIN_CLIENT | FIN_SERVER))",
        "if (tcp->flags & (FIN | RST))",
    ),
    ("end not recorded", "bpf_ringbuf_submit(record, 0);", "bpf_ringbuf_discard(record, 0);"),
    ("end recorded as another", "record->how = how;", "record->how = how << 1;"),
    (
        "end by the first packet",
        "& ENDED)\n\t\treturn;\n\trecord",
        "& how)\n\t\treturn;\n\tif (how != FINS_ACKNOWLEDGED)\n\t\treturn;\n\trecord",
    ),
    # SYN.
    ("SYN translated", "if (tcp->flags & SYN) {", "if (0) {"),
    ("SYN-ACK supersedes", "if (!(tcp->flags & ACK)) {\n\t\tif (flow", "if (1) {\n\t\tif (flow"),
    ("SYN supersedes what lives", "(flow->flags & ENDED && !(from", "(1 && !(from"),
    ("repeated SYN supersedes", "!(from_client && seq == flow->isn_client)", "1"),
    ("server's SYN repeated", "!(from_client && seq ==", "!(seq =="),
    (
        "superseded is carried",
        "if (!packet->flow || packet->flow->flags & SUPERSEDED)",
        "if (!packet->flow)",
    ),
)
