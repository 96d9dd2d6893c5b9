"""Small ways to break the programs and the core, for mutants.py."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BPF = Path("nfq_zerortt/kernel/bpf")
SOURCE = BPF / "zerortt.bpf.c"
CORE = Path("nfq_zerortt/core")


class Mutant(NamedTuple):
    """One change: ``old``, which is in the file just once, becomes ``new``."""

    name: str
    old: str
    new: str
    file: Path = SOURCE


PROGRAMS = [
    # What is renumbered.
    Mutant(
        "TSecr without ACK",
        "\t\t\t\tif (has_ack)\t/* else it",
        "\t\t\t\tif (has_ack >= 0)\t/* else it",
    ),
    Mutant("ack without ACK", "if (has_ack)\n\t\tchanged->ack", "changed->ack"),
    Mutant(
        "seq not shifted", "bpf_htonl(bpf_ntohl(changed->seq) + own->seq_shift)", "changed->seq"
    ),
    # Renumbered where it lies.
    Mutant("in place: seq", "bpf_ntohl(tcp->seq) + own->seq_shift", "bpf_ntohl(tcp->seq)"),
    Mutant("in place: ack without ACK", "if (has_ack)\n\t\tput(&tcp->ack", "put(&tcp->ack"),
    Mutant("in place: ack", "bpf_ntohl(tcp->ack) + own->ack_shift, &", "bpf_ntohl(tcp->ack), &"),
    Mutant(
        "in place: TSecr without ACK",
        "\t\tif (has_ack)\t/* else it means nothing: RFC 7323, section 3.2 */\n\t\t\tput",
        "\t\tput",
    ),
    Mutant("in place: TSval", "->tsval) + own->tsval_shift", "->tsval) + own->tsecr_shift"),
    Mutant("in place: TSecr", "->tsecr) + own->tsecr_shift", "->tsecr) + own->tsval_shift"),
    Mutant("in place: window", "\t\ttcp->window = window;\n", ""),
    Mutant("in place: window's sum", "(__u64)(__u16)~tcp->window", "(__u64)~tcp->window"),
    Mutant("in place: old word's sum", "(__u64)(__u32)~*at + new", "new"),
    Mutant("in place: carry lost", "(__u64)(__u32)~*at + new", "(__u32)(~*at + new)"),
    Mutant(
        "in place: stripped",
        "length == WITH_TIMESTAMPS && !packet->direction->strip &&",
        "length == WITH_TIMESTAMPS &&",
    ),
    Mutant(
        "in place: whatever the options",
        "data_end &&\n\t\t timestamps->kinds == bpf_htonl(USUAL_OPTIONS))",
        "data_end)",
    ),
    Mutant(
        "in place: not marked",
        "difference);\n\tpacket->skb->mark |= MARK_TRANSLATED;",
        "difference);",
    ),
    Mutant(
        "TSecr by tsval", "&header[at + 6], direction->tsecr", "&header[at + 6], direction->tsval"
    ),
    Mutant(
        "TSval at TSecr",
        "shift(&header[at + 2], direction->tsval",
        "shift(&header[at + 6], direction->tsval",
    ),
    Mutant(
        "SACK by seq_shift",
        "shift(&header[at], direction->ack_shift)",
        "shift(&header[at], direction->seq_shift)",
    ),
    Mutant("shift without carry", "at[0] = value >> 24;", "at[0] = at[0];"),
    Mutant(
        "byte order of shift",
        "at[2] = value >> 8;\n\tat[3] = value;",
        "at[3] = value >> 8;\n\tat[2] = value;",
    ),
    # Options.
    Mutant("SACK edges: last left", "if (at + 4 > edges_end ||", "if (at + 4 >= edges_end ||"),
    Mutant("SACK edges: one too many", "edges_end = at + size;", "edges_end = at + size + 2;"),
    Mutant(
        "SACK edges begin late",
        "next = at + 2;\n\t\t\tedges_end",
        "next = at + 6;\n\t\t\tedges_end",
    ),
    Mutant(
        "timestamps of any length",
        "OPTION_TIMESTAMPS && size == TIMESTAMPS_LENGTH",
        "OPTION_TIMESTAMPS",
    ),
    Mutant("timestamps not stripped", "if (direction->strip & STRIP_TIMESTAMPS)", "if (0)"),
    Mutant("timestamps stripped short", "OPTION_NOP, TIMESTAMPS_LENGTH)", "OPTION_NOP, 9)"),
    Mutant(
        "stripped with END",
        "__builtin_memset(&header[at], OPTION_NOP",
        "__builtin_memset(&header[at], OPTION_END",
    ),
    Mutant("SACK not stripped", "OPTION_SACK && direction->strip & STRIP_SACK", "OPTION_SACK && 0"),
    Mutant(
        "strip bits swapped",
        "OPTION_SACK && direction->strip & STRIP_SACK",
        "OPTION_SACK && direction->strip & STRIP_TIMESTAMPS",
    ),
    Mutant("SACK stripped short", "blank_end = at + size;", "blank_end = at + size - 1;"),
    Mutant("END passed over", "header[at] == OPTION_END || size < 2", "size < 2"),
    Mutant("length 1 taken", "size < 2 ||", "size < 1 ||"),
    Mutant("option up to the end", "at + size > length)", "at + size >= length)"),
    Mutant("option over the end", "at + size > length)", "at + size > length + 1)"),
    Mutant("NOP has a length", "if (header[at] == OPTION_NOP) {", "if (0) {"),
    Mutant(
        "too few steps", "step < TCP_LONGEST - TCP_HEADER;", "step < TCP_LONGEST - TCP_HEADER - 1;"
    ),
    Mutant(
        "a step that does not move",
        "header[at] = OPTION_NOP;\n\t\t\tnext = at + 1;\n\t\t\tblank_end",
        "next = at;\n\t\t\tblank_end",
    ),
    # The window field.
    Mutant("window not bounded", "return wide > 0xffff ? 0xffff : wide;", "return wide;"),
    Mutant("window rounded to 0", "return wide ? wide : window != 0;", "return wide;"),
    Mutant("window 0 opened", "return wide ? wide : window != 0;", "return wide ? wide : 1;"),
    Mutant("window shift too small", "wide <<= by & 15;", "wide <<= by & 7;"),
    Mutant(
        "window never shrinks",
        "if (own->window_shift)\n\t\tchanged",
        "if (own->window_shift > 0)\n\t\tchanged",
    ),
    Mutant("window off by one", "wide >>= -by & 15;", "wide >>= (1 - by) & 15;"),
    # How far both sides have come.
    Mutant("ack without the flag believed", "\tif (!(tcp->flags & ACK))\n\t\treturn;\n", ""),
    Mutant("any ack believed", "within(ack, own->last_ack, other->next_seq)", "1"),
    Mutant(
        "ack believed as it came",
        "bpf_ntohl(tcp->ack) + own->ack_shift;\n\n",
        "bpf_ntohl(tcp->ack);\n\n",
    ),
    Mutant(
        "newest ack not believed",
        "within(ack, own->last_ack, other->next_seq)",
        "within(ack, own->last_ack, other->next_seq - 1)",
    ),
    Mutant(
        "window not noted",
        "own->last_ack = ack;\n\t\town->window = bpf_ntohs(tcp->window);",
        "own->last_ack = ack;",
    ),
    Mutant(
        "window noted rescaled",
        "own->window = bpf_ntohs(tcp->window);",
        "own->window = rescaled(bpf_ntohs(tcp->window), own->window_shift);",
    ),
    Mutant("data far off believed", "if (ahead <= room && room < HALF)", "if (ahead <= room)"),
    Mutant("data to the border not believed", "if (ahead <= room &&", "if (ahead < room &&"),
    Mutant("less slack", "#define SLACK 65536u", "#define SLACK 65535u"),
    Mutant("more slack", "#define SLACK 65536u", "#define SLACK 65537u"),
    Mutant(
        "scale too small",
        "((__u32)other->window << (other->scale & 15)) +\n",
        "((__u32)other->window << (other->scale & 7)) +\n",
    ),
    Mutant(
        "own scale",
        "((__u32)other->window << (other->scale & 15)) +\n",
        "((__u32)other->window << (own->scale & 15)) +\n",
    ),
    Mutant("repetitions counted", "own->octets += ahead;", "own->octets += packet->data;"),
    Mutant(
        "padding is data",
        "packet->data = size - length;",
        "packet->data = packet->skb->len - packet->tcp_at - length;",
    ),
    Mutant("segments not counted", "packet->skb->gso_segs ? packet->skb->gso_segs : 1;", "1;"),
    Mutant("last_seen not noted", "packet->flow->last_seen = now;", ""),
    # FIN and RST.
    Mutant(
        "any FIN believed",
        "within(end_seq, other->last_ack, other->last_ack + window + 1 + FIN_SLACK)) {",
        "1) {",
    ),
    Mutant("FIN: border", "window + 1 + FIN_SLACK)) {", "window + FIN_SLACK)) {"),
    Mutant("FIN: border, other way", "window + 1 + FIN_SLACK)) {", "window + 2 + FIN_SLACK)) {"),
    Mutant("FIN: no slack", "window + 1 + FIN_SLACK)) {", "window + 1)) {"),
    Mutant(
        "FIN uses no number",
        "__u32 end_seq = seq + packet->data + 1;",
        "__u32 end_seq = seq + packet->data;",
    ),
    Mutant(
        "FIN: end not noted",
        "own->fin_end = end_seq;",
        "if (!(flow->flags & fin))\n\t\t\t\town->fin_end = end_seq;",
    ),
    Mutant(
        "FIN goes back", "if (ahead && ahead < HALF) {\n\t\t\t\town", "if (ahead) {\n\t\t\t\town"
    ),
    Mutant("FIN is data", "own->octets += ahead - 1;", "own->octets += ahead;"),
    Mutant(
        "FIN of the other",
        "== CLIENT ? FIN_CLIENT : FIN_SERVER;",
        "== CLIENT ? FIN_SERVER : FIN_CLIENT;",
    ),
    Mutant("RST not where acknowledged", "if (seq == other->last_ack || ", "if ("),
    Mutant("RST not at what was sent", "seq == own->next_seq ||", "0 ||"),
    Mutant("RST not at the FIN", "(flow->flags & fin && seq == own->fin_end - 1)", "0"),
    Mutant("RST behind the FIN", "seq == own->fin_end - 1)", "seq == own->fin_end)"),
    Mutant("RST at a FIN never sent", "(flow->flags & fin && seq", "(seq"),
    Mutant("any RST", "if (seq == other->last_ack || ", "if (1 || "),
    Mutant(
        "RST of the other", "CLIENT ? RST_CLIENT : RST_SERVER", "CLIENT ? RST_SERVER : RST_CLIENT"
    ),
    Mutant("RST after the end", "\tif (flow->flags & ENDED)\n\t\treturn;\n", ""),
    Mutant(
        "FIN of one is enough",
        "== (FIN_CLIENT | FIN_SERVER) &&\n\t\t   other",
        "!= 0 &&\n\t\t   other",
    ),
    Mutant("FINs: own not acknowledged", "other->last_ack == own->fin_end &&", "1 &&"),
    Mutant("FINs: other's not acknowledged", "own->last_ack == other->fin_end)", "1)"),
    Mutant(
        "FINs: only the number itself",
        "other->last_ack == own->fin_end &&",
        "other->last_ack - own->fin_end < HALF &&",
    ),
    Mutant(
        "later ACKs not looked at",
        "if (tcp->flags & (FIN | RST) || packet->flow->flags & (FIN_CLIENT | FIN_SERVER))",
        "if (tcp->flags & (FIN | RST))",
    ),
    Mutant("end not recorded", "bpf_ringbuf_submit(record, 0);", "bpf_ringbuf_discard(record, 0);"),
    Mutant("end recorded as another", "record->how = how;", "record->how = how << 1;"),
    Mutant(
        "end by the first packet",
        "& ENDED)\n\t\treturn;\n\trecord",
        "& how)\n\t\treturn;\n\tif (how != FINS_ACKNOWLEDGED)\n\t\treturn;\n\trecord",
    ),
    # SYN.
    Mutant("SYN translated", "if (tcp->flags & SYN) {", "if (0) {"),
    Mutant(
        "SYN-ACK supersedes", "if (!(tcp->flags & ACK)) {\n\t\tif (flow", "if (1) {\n\t\tif (flow"
    ),
    Mutant("SYN supersedes what lives", "(flow->flags & ENDED && !(from", "(1 && !(from"),
    Mutant("repeated SYN supersedes", "!(from_client && seq == flow->isn_client)", "1"),
    Mutant("server's SYN repeated", "!(from_client && seq ==", "!(seq =="),
    Mutant(
        "superseded is carried",
        "if (!packet->flow || packet->flow->flags & SUPERSEDED)",
        "if (!packet->flow)",
    ),
    # What is left alone.
    Mutant("first fragments", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x1fff"),
    Mutant("later fragments", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x2000"),
    Mutant("reserved bit", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0xbfff"),
    Mutant("don't fragment", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x7fff"),
    Mutant("IP options", "ip->version_length != 0x45 ||", "(ip->version_length & 0xf0) != 0x40 ||"),
    Mutant("IP version", "ip->version_length != 0x45 ||", "(ip->version_length & 0x0f) != 0x05 ||"),
    Mutant("IPv6 version", "bpf_ntohl(ip->version) >> 28 != 6 ||", ""),
    Mutant("IPv4 protocol", "|| ip->protocol != PROTOCOL_TCP", ""),
    Mutant("IPv6 next header", "|| ip->next != PROTOCOL_TCP", ""),
    Mutant(
        "mapped addresses", "if (is_mapped(ip->source) || is_mapped(ip->destination))", "if (0)"
    ),
    Mutant("IPv4 cut off", "|| ETHERNET_HEADER + total > packet->skb->len", ""),
    Mutant(
        "IPv4 cut off by one",
        "ETHERNET_HEADER + total > packet->skb->len",
        "ETHERNET_HEADER + total > packet->skb->len + 1",
    ),
    Mutant(
        "IPv6 cut off", "if (ETHERNET_HEADER + IPV6_HEADER + payload > packet->skb->len)", "if (0)"
    ),
    Mutant("IPv4 total too short", "if (total < IPV4_HEADER || ", "if ("),
    Mutant(
        "low data offset",
        "if (length < TCP_HEADER || length > size)\n\t\treturn;\n\tnow",
        "if (length > size)\n\t\treturn;\n\tnow",
    ),
    Mutant(
        "data offset too high",
        "if (length < TCP_HEADER || length > size)\n\t\treturn;\n\tnow",
        "if (length < TCP_HEADER)\n\t\treturn;\n\tnow",
    ),
    Mutant(
        "padding left alone",
        "ETHERNET_HEADER + total > packet->skb->len",
        "ETHERNET_HEADER + total != packet->skb->len",
    ),
    Mutant(
        "IPv6 padding left alone",
        "IPV6_HEADER + payload > packet->skb->len",
        "IPV6_HEADER + payload != packet->skb->len",
    ),
    Mutant("VLAN", "if (skb->vlan_present)", "if (0)"),
    Mutant("IPv6 left alone", "else if (skb->protocol == bpf_htons(0x86dd))", "else if (0)"),
    Mutant("sides swapped", "return from(skb, CLIENT);", "return from(skb, SERVER);"),
    # The frame.
    *(
        Mutant(f"{name}{at.strip()}", f"{at}, 0, difference, 0);", f"{at}, 0, {then});")
        for at in (
            "\n\tbpf_l4_csum_replace(skb, packet->tcp_at + CHECKSUM_AT",
            "bpf_l4_csum_replace(packet->skb, packet->tcp_at + CHECKSUM_AT",
        )
        for name, then in (
            ("checksum not updated: ", "0, 0"),
            ("pseudo-header updated: ", "difference, BPF_F_PSEUDO_HDR"),
        )
    ),
    Mutant("mark overwritten", "\tskb->mark |= MARK_TRANSLATED;", "\tskb->mark = MARK_TRANSLATED;"),
    Mutant("not marked", "\tskb->mark |= MARK_TRANSLATED;", ""),
    Mutant(
        "other filters not asked",
        "from_ipv6(&packet);\n\treturn TC_ACT_UNSPEC;",
        "from_ipv6(&packet);\n\treturn TC_ACT_OK;",
    ),
    # The hand-over.
    Mutant(
        "left: not counted",
        "__sync_fetch_and_add(&own->left,",
        "__sync_fetch_and_add(&own->left, 0 *",
    ),
    Mutant("left: packets, not bytes", "packet->data ? packet->data : 1)", "1)"),
    Mutant("left: bare ACKs not counted", "packet->data ? packet->data : 1)", "packet->data)"),
    Mutant("left: not marked", "packet->skb->mark |= MARK_LEFT;", ";"),
    Mutant(
        "left: mark overwritten",
        "packet->skb->mark |= MARK_LEFT;",
        "packet->skb->mark = MARK_LEFT;",
    ),
    Mutant("handled: of any flow", "ours = done->ticket == flow->ticket;", "ours = 1;"),
    Mutant("handled: nothing was left", "&& own->left &&", "&&"),
    Mutant("handled: of the other side", "done->amount[side]", "done->amount[1 - side]"),
    Mutant(
        "handled: more than was left",
        "done->amount[side] == own->left",
        "done->amount[side] >= own->left",
    ),
    Mutant("waits 40 ms", "#define LEAVE_FOR_NS 100000000ull", "#define LEAVE_FOR_NS 40000000ull"),
    Mutant(
        "waits 150 ms", "#define LEAVE_FOR_NS 100000000ull", "#define LEAVE_FOR_NS 150000000ull"
    ),
    Mutant("does not settle", "\town->settled = 1;", ""),
    Mutant(
        "does not settle in time",
        "if (!passed(now, flow->handed_over, LEAVE_FOR_NS) &&\n\t    !",
        "if (!",
    ),
    Mutant("left: not seen", "\tnote(packet, tcp);\n", "\tif (!left)\n\t\tnote(packet, tcp);\n"),
    Mutant(
        "left: end not seen",
        "\tif (tcp->flags & (FIN | RST) || packet",
        "\tif (left)\n\t\t;\n\telse if (tcp->flags & (FIN | RST) || packet",
    ),
    Mutant("done: own not taken", "\t\tcatch_up(own, done, side);\n", ""),
    Mutant("done: other's not taken", "\t\tcatch_up(packet->other, done, 1 - side);\n", ""),
    Mutant(
        "done: sides swapped",
        "catch_up(packet->other, done, 1 - side);",
        "catch_up(packet->other, done, side);",
    ),
    Mutant(
        "done: what is behind taken",
        "if (ahead && ahead < HALF) {\n\t\tdirection",
        "if (ahead) {\n\t\tdirection",
    ),
    Mutant("done: ACK behind taken", "if (newer && newer < HALF) {", "if (newer) {"),
    Mutant("done: window of no newer ACK", "if (newer && newer < HALF) {", "if (newer < HALF) {"),
    Mutant("done: window not taken", "\t\tdirection->window = done->window[side];\n", ""),
    Mutant("done: data not counted", "\t\tdirection->octets += ahead;\n", ""),
    Mutant(
        "passing: not marked", "|= left ? MARK_LEFT : MARK_TRANSLATED;", "|= left ? MARK_LEFT : 0;"
    ),
    Mutant("passing: not left", "|= left ? MARK_LEFT : MARK_TRANSLATED;", "|= MARK_TRANSLATED;"),
    Mutant("passing: translated", "if (packet->flow->flags & PASSING) {", "if (0) {"),
    Mutant(
        "passing: SYNs, too",
        "\tif (tcp->flags & SYN) {",
        "\tif (tcp->flags & SYN && !(packet->flow->flags & PASSING)) {",
    ),
    Mutant("does not wait", "if (own->settled)\n", "if (1)\n"),
]
IN_HEADER = {"waits 40 ms", "waits 150 ms"}

DIRECTION, FLOW, STREAM = CORE / "direction.py", CORE / "flow.py", CORE / "stream.py"
REFERENCE = [
    Mutant(
        "core: seq not wrapped",
        "new_ack = (ack + self.ack_shift) & _MASK if has_ack else ack",
        "new_ack = (ack + self.ack_shift) & _MASK",
        DIRECTION,
    ),
    Mutant(
        "core: TSecr without ACK",
        "if has_ack:  # without ACK",
        "if True:  # without ACK",
        DIRECTION,
    ),
    Mutant("core: SACK edges", "position + length - 3, 4)", "position + length - 4, 4)", DIRECTION),
    Mutant(
        "core: timestamps of any length",
        "if kind == opt.TIMESTAMPS and length == 10:",
        "if kind == opt.TIMESTAMPS and length >= 10:",
        DIRECTION,
    ),
    Mutant("core: window rounded to 0", "or (1 if window else 0)", "or 0", DIRECTION),
    Mutant(
        "core: window not bounded",
        "min(window << shift, _MAX_WINDOW)",
        "(window << shift) & _MAX_WINDOW",
        DIRECTION,
    ),
    Mutant("core: slack", "_SLACK = 1 << 16", "_SLACK = (1 << 16) - 1", DIRECTION),
    Mutant("core: FIN is data", "self.octets += ahead - 1", "self.octets += ahead", DIRECTION),
    Mutant(
        "core: END passed over",
        "if kind == opt.END or position + 1 >= end:",
        "if position + 1 >= end:",
        DIRECTION,
    ),
    Mutant(
        "core: everyday TSecr",
        "new_tsecr = (tsecr + self.tsecr_shift) & _MASK",
        "new_tsecr = tsecr",
        DIRECTION,
    ),
    Mutant(
        "core: everyday strip",
        "            and not self.strip_timestamps\n        ):",
        "        ):",
        DIRECTION,
    ),
    Mutant("core: checksum of options", "change += more", "change += 0", DIRECTION),
    Mutant("core: RST at the FIN", "number == add(fin_end, -1)", "number == fin_end", FLOW),
    Mutant("core: FIN in the window", "window + 1 + slack)", "window + slack)", FLOW),
    Mutant(
        "core: FINs acknowledged",
        "return by_server and self.to_server.last_ack == self.server_fin_end",
        "return by_server",
        FLOW,
    ),
    Mutant(
        "core: FIN without slack",
        "self.in_window(side, view.end_seq, DEFAULT_WINDOW)",
        "self.in_window(side, view.end_seq)",
        FLOW,
    ),
    Mutant(
        "core: RST after the end",
        "if flow.state not in ENDED and flow.is_exact",
        "if flow.is_exact",
        STREAM,
    ),
    Mutant(
        "core: repeated SYN",
        "if from_client and view.seq == flow.isn_client:",
        "if view.seq == flow.isn_client:",
        STREAM,
    ),
]
