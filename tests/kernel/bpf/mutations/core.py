"""Mutants of the core's translation, which is the reference: both sides must be watched."""

from __future__ import annotations

from bpf.mutations.mutant import CORE, mutants

MUTANTS = [
    *mutants(
        CORE / "direction.py",
        (
            "core: seq not wrapped",
            "new_ack = (ack + self.ack_shift) & _MASK if has_ack else ack",
            "new_ack = (ack + self.ack_shift) & _MASK",
        ),
        ("core: TSecr without ACK", "if has_ack:  # without ACK", "if True:  # without ACK"),
        ("core: SACK edges", "position + length - 3, 4)", "position + length - 4, 4)"),
        (
            "core: timestamps of any length",
            "if kind == opt.TIMESTAMPS and length == 10:",
            "if kind == opt.TIMESTAMPS and length >= 10:",
        ),
        ("core: window rounded to 0", "or (1 if window else 0)", "or 0"),
        (
            "core: window not bounded",
            "min(window << shift, _MAX_WINDOW)",
            "(window << shift) & _MAX_WINDOW",
        ),
        ("core: slack", "_SLACK = 1 << 16", "_SLACK = (1 << 16) - 1"),
        ("core: FIN is data", "self.octets += ahead - 1", "self.octets += ahead"),
        (
            "core: END passed over",
            "if kind == opt.END or position + 1 >= end:",
            "if position + 1 >= end:",
        ),
        (
            "core: everyday TSecr",
            "new_tsecr = (tsecr + self.tsecr_shift) & _MASK",
            "new_tsecr = tsecr",
        ),
        (
            "core: everyday strip",
            "            and not self.strip_timestamps\n        ):",
            "        ):",
        ),
        ("core: checksum of options", "change += more", "change += 0"),
    ),
    *mutants(
        CORE / "flow.py",
        ("core: RST at the FIN", "number == add(fin_end, -1)", "number == fin_end"),
        ("core: FIN in the window", "window + 1 + slack)", "window + slack)"),
        (
            "core: FINs acknowledged",
            "return by_server and self.to_server.last_ack == self.server_fin_end",
            "return by_server",
        ),
        (
            "core: FIN without slack",
            "self.in_window(side, view.end_seq, DEFAULT_WINDOW)",
            "self.in_window(side, view.end_seq)",
        ),
    ),
    *mutants(
        CORE / "stream.py",
        (
            "core: RST after the end",
            "if flow.state not in ENDED and flow.is_exact",
            "if flow.is_exact",
        ),
        (
            "core: repeated SYN",
            "if from_client and view.seq == flow.isn_client:",
            "if view.seq == flow.isn_client:",
        ),
    ),
]
