"""Commands on ClientNIC that tell by name what the machine lacks."""

from __future__ import annotations

from bench.comparison.laboratory import ComparisonLab
from nfq_zerortt.errors import MissingFeatureError


def filter_rule(lab: ComparisonLab, table: str, rule: str) -> None:
    """Append a rule ("CHAIN match… -j TARGET") on ClientNIC.

    Raises:
        MissingFeatureError: the kernel refuses it, as it does where it lacks an extension.
    """
    argv = ["iptables-legacy", "-w", "-t", table, "-A", *rule.split()]
    done = lab.testbed.exec("clientnic", argv)
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise MissingFeatureError(f"iptables refuses `-t {table} {rule}`: {said}")
