"""The congestion control of the four hosts.

In a namespace other than the initial one the kernel accepts only algorithms
that the initial namespace's ``tcp_allowed_congestion_control`` lists, and
looks at that list only in the moment of the choice. So where the wanted one
is refused, it is added there for that moment and taken out again at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nfq_zerortt.testbed.commands import CommandError, Commands
from nfq_zerortt.testbed.state import DIRECTORY

_CHOICE = "net.ipv4.tcp_congestion_control"
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
# What was added to the list, kept while it is in there: the next command takes
# it out if this one is killed in between.
_ADDED = DIRECTORY / "added_congestion_control"


def set_congestion_control(commands: Commands, namespaces: Sequence[str], wanted: str) -> str:
    """Choose ``wanted`` in the namespaces (under the lock); return what they have got."""
    try:
        _choose(commands, namespaces, wanted)
    except CommandError:
        if _allow(wanted):
            try:
                _choose(commands, namespaces, wanted)
            except CommandError:
                pass  # not in this kernel: what they have got is reported
            finally:
                restore_allowed()
    got = {
        commands.run("ip", "netns", "exec", namespace, "sysctl", "-n", _CHOICE).strip()
        for namespace in namespaces
    }
    return "/".join(sorted(got))


def restore_allowed() -> None:
    """Take out of the list of allowed algorithms what we have added (under the lock)."""
    try:
        added = _ADDED.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return
    allowed = _ALLOWED.read_text(encoding="ascii").split()
    if added in allowed:
        allowed.remove(added)
        _ALLOWED.write_text(" ".join(allowed), encoding="ascii")
    _ADDED.unlink()


def _choose(commands: Commands, namespaces: Sequence[str], wanted: str) -> None:
    for namespace in namespaces:
        commands.run("ip", "netns", "exec", namespace, "sysctl", "-q", "-w", f"{_CHOICE}={wanted}")


def _allow(wanted: str) -> bool:
    try:
        allowed = _ALLOWED.read_text(encoding="ascii").split()
        if wanted in allowed:
            return False  # so it was refused for another reason
        _ADDED.write_text(wanted, encoding="ascii")
        _ALLOWED.write_text(" ".join([*allowed, wanted]), encoding="ascii")
    except OSError:  # no such algorithm, or not the initial namespace
        _ADDED.unlink(missing_ok=True)
        return False
    return True
