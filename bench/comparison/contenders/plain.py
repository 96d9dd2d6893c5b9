"""Plain forwarding: ClientNIC is a router and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.laboratory import ComparisonLab


class Plain:
    """No rules, no connection tracking, no process."""

    name = "plain"
    about = "the kernel forwards; no rules, no connection tracking"

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        """Do nothing: the hosts of the testbed forward."""
        del lab
        return ()
