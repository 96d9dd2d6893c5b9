"""Mutants of what the programs do to a header: numbers, options, the window field."""

from __future__ import annotations

from bpf.mutations.mutant import SOURCE, mutants

MUTANTS = mutants(
    SOURCE,
    # What is renumbered.
    (
        "TSecr without ACK",
        "\t\t\t\tif (has_ack)\t/* else it",
        "\t\t\t\tif (has_ack >= 0)\t/* else it",
    ),
    ("ack without ACK", "if (has_ack)\n\t\tchanged->ack", "changed->ack"),
    ("seq not shifted", "bpf_htonl(bpf_ntohl(changed->seq) + own->seq_shift)", "changed->seq"),
    # Renumbered where it lies.
    ("in place: seq", "bpf_ntohl(tcp->seq) + own->seq_shift", "bpf_ntohl(tcp->seq)"),
    ("in place: ack without ACK", "if (has_ack)\n\t\tput(&tcp->ack", "put(&tcp->ack"),
    ("in place: ack", "bpf_ntohl(tcp->ack) + own->ack_shift, &", "bpf_ntohl(tcp->ack), &"),
    (
        "in place: TSecr without ACK",
        "\t\tif (has_ack)\t/* else it means nothing: RFC 7323, section 3.2 */\n\t\t\tput",
        "\t\tput",
    ),
    ("in place: TSval", "->tsval) + own->tsval_shift", "->tsval) + own->tsecr_shift"),
    ("in place: TSecr", "->tsecr) + own->tsecr_shift", "->tsecr) + own->tsval_shift"),
    ("in place: window", "\t\ttcp->window = window;\n", ""),
    ("in place: window's sum", "(__u64)(__u16)~tcp->window", "(__u64)~tcp->window"),
    ("in place: old word's sum", "(__u64)(__u32)~*at + new", "new"),
    ("in place: carry lost", "(__u64)(__u32)~*at + new", "(__u32)(~*at + new)"),
    (
        "in place: stripped",
        "length == WITH_TIMESTAMPS && !packet->direction->strip &&",
        "length == WITH_TIMESTAMPS &&",
    ),
    (
        "in place: whatever the options",
        "data_end &&\n\t\t timestamps->kinds == bpf_htonl(USUAL_OPTIONS))",
        "data_end)",
    ),
    (
        "in place: not marked",
        "difference);\n\tpacket->skb->mark |= MARK_TRANSLATED;",
        "difference);",
    ),
    ("TSecr by tsval", "&header[at + 6], direction->tsecr", "&header[at + 6], direction->tsval"),
    (
        "TSval at TSecr",
        "shift(&header[at + 2], direction->tsval",
        "shift(&header[at + 6], direction->tsval",
    ),
    (
        "SACK by seq_shift",
        "shift(&header[at], direction->ack_shift)",
        "shift(&header[at], direction->seq_shift)",
    ),
    ("shift without carry", "at[0] = value >> 24;", "at[0] = at[0];"),
    (
        "byte order of shift",
        "at[2] = value >> 8;\n\tat[3] = value;",
        "at[3] = value >> 8;\n\tat[2] = value;",
    ),
    # Options.
    ("SACK edges: last left", "if (at + 4 > edges_end ||", "if (at + 4 >= edges_end ||"),
    ("SACK edges: one too many", "edges_end = at + size;", "edges_end = at + size + 2;"),
    ("SACK edges begin late", "next = at + 2;\n\t\t\tedges_end", "next = at + 6;\n\t\t\tedges_end"),
    (
        "timestamps of any length",
        "OPTION_TIMESTAMPS && size == TIMESTAMPS_LENGTH",
        "OPTION_TIMESTAMPS",
    ),
    ("timestamps not stripped", "if (direction->strip & STRIP_TIMESTAMPS)", "if (0)"),
    ("timestamps stripped short", "OPTION_NOP, TIMESTAMPS_LENGTH)", "OPTION_NOP, 9)"),
    (
        "stripped with END",
        "__builtin_memset(&header[at], OPTION_NOP",
        "__builtin_memset(&header[at], OPTION_END",
    ),
    ("SACK not stripped", "OPTION_SACK && direction->strip & STRIP_SACK", "OPTION_SACK && 0"),
    (
        "strip bits swapped",
        "OPTION_SACK && direction->strip & STRIP_SACK",
        "OPTION_SACK && direction->strip & STRIP_TIMESTAMPS",
    ),
    ("SACK stripped short", "blank_end = at + size;", "blank_end = at + size - 1;"),
    ("END passed over", "header[at] == OPTION_END || size < 2", "size < 2"),
    ("length 1 taken", "size < 2 ||", "size < 1 ||"),
    ("option up to the end", "at + size > length)", "at + size >= length)"),
    ("option over the end", "at + size > length)", "at + size > length + 1)"),
    ("NOP has a length", "if (header[at] == OPTION_NOP) {", "if (0) {"),
    ("too few steps", "step < TCP_LONGEST - TCP_HEADER;", "step < TCP_LONGEST - TCP_HEADER - 1;"),
    (
        "a step that does not move",
        "header[at] = OPTION_NOP;\n\t\t\tnext = at + 1;\n\t\t\tblank_end",
        "next = at;\n\t\t\tblank_end",
    ),
    # The window field.
    ("window not bounded", "return wide > 0xffff ? 0xffff : wide;", "return wide;"),
    ("window rounded to 0", "return wide ? wide : window != 0;", "return wide;"),
    ("window 0 opened", "return wide ? wide : window != 0;", "return wide ? wide : 1;"),
    ("window shift too small", "wide <<= by & 15;", "wide <<= by & 7;"),
    (
        "window never shrinks",
        "if (own->window_shift)\n\t\tchanged",
        "if (own->window_shift > 0)\n\t\tchanged",
    ),
    ("window off by one", "wide >>= -by & 15;", "wide >>= (1 - by) & 15;"),
)
