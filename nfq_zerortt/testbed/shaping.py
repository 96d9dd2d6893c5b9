"""The WAN as queueing disciplines (tc) on both of servernic's interfaces.

netem for the delay where the kernel has it; a token bucket (tbf) for the rate
in either case. Each acts on what leaves an interface, so the two
interfaces are the two directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.testbed.commands import CommandError, Commands
from nfq_zerortt.testbed.wan import WanSettings

# Packets on their way through netem: 1.2 s of full frames at 1 Gbit/s.
_NETEM_PACKETS = 100_000


def netem_available(commands: Commands, namespace: str, interface: str) -> bool:
    """Say whether the kernel has netem; what is set on the interface is gone after that."""
    try:
        commands.run("tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", "netem")
    except CommandError as error:
        if "qdisc kind is unknown" in str(error):
            return False
        raise
    clear(commands, namespace, [interface])
    return True


def set_netem(
    commands: Commands, namespace: str, interfaces: Sequence[str], settings: WanSettings
) -> None:
    """Set delay and rate by netem. What is on its way at that moment is lost."""
    clear(commands, namespace, interfaces)
    for interface in interfaces:
        commands.run(
            *("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "handle", "1:"),
            *("netem", "limit", str(_NETEM_PACKETS), "delay", f"{settings.one_way_ms:.3f}ms"),
        )
        if settings.rate_mbit is not None:
            commands.run(
                *("tc", "-n", namespace, "qdisc", "add", "dev", interface),
                *("parent", "1:1", "handle", "10:", *_token_bucket(settings)),
            )


def has(kind: str, commands: Commands, namespace: str, interfaces: Sequence[str]) -> bool:
    """Say whether a discipline of this kind ("netem", "tbf") is the root of all the interfaces."""
    return all(
        f"qdisc {kind} "
        in commands.run("tc", "-n", namespace, "qdisc", "show", "dev", interface, "root")
        for interface in interfaces
    )


def set_rate(
    commands: Commands, namespace: str, interfaces: Sequence[str], settings: WanSettings
) -> None:
    """Set the rate alone, or take it away when it is None."""
    if settings.rate_mbit is None:
        clear(commands, namespace, interfaces)
        return
    for interface in interfaces:
        commands.run(
            *("tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root"),
            *_token_bucket(settings),
        )


def clear(commands: Commands, namespace: str, interfaces: Sequence[str]) -> None:
    """Take away what has been set on the interfaces, if anything."""
    for interface in interfaces:
        # It fails when there is nothing to take away, which is what is wanted.
        commands.succeeds("tc", "-n", namespace, "qdisc", "del", "dev", interface, "root")


def _token_bucket(settings: WanSettings) -> tuple[str, ...]:
    assert settings.rate_mbit is not None
    return (
        *("tbf", "rate", f"{round(settings.rate_mbit * 1e6)}bit"),
        *("burst", str(settings.rate_burst_bytes()), "limit", str(settings.rate_queue_bytes())),
    )
