"""What the service needs in order to run, and what it warns of."""

from __future__ import annotations

import socket
from pathlib import Path

from nfq_zerortt.errors import ConfigError, MissingFeatureError
from nfq_zerortt.kernel.features.feature import Feature, Probe
from nfq_zerortt.kernel.features.foreign_rules import address_translation, untracked
from nfq_zerortt.kernel.features.host import forwarding, ipv6
from nfq_zerortt.kernel.features.kernel_path import mark_bit
from nfq_zerortt.kernel.features.netfilter import (
    addrtype_match,
    ct_target,
    icmp_match,
    mangle_table,
    mark_match,
    multiport_match,
    nfqueue,
    nfqueue_target,
    raw_table,
    u32_match,
)
from nfq_zerortt.kernel.features.privileges import (
    cap_net_admin,
    cap_net_raw,
    iptables_package,
    linux,
    netfilterqueue_package,
)


def require_for_run(
    client_iface: str,
    server_iface: str,
    queue: int = 0,
    *,
    workers: int = 1,
    with_rules: bool = True,
) -> None:
    """Raise unless the service can run between these interfaces.

    ``workers`` is how many queues it has, from ``queue`` on; ``with_rules`` whether it sets its
    iptables rules itself.

    Raises:
        ConfigError: an interface that is not there, the same one twice, a queue in use.
        MissingFeatureError: no Linux, no privilege, no NFQUEUE, no legacy iptables.
    """
    _require(linux())
    require_interfaces(client_iface, server_iface)
    needed: list[Probe] = [cap_net_admin, cap_net_raw, netfilterqueue_package, nfqueue]
    if with_rules:
        needed += [iptables_package, mangle_table, raw_table, nfqueue_target, ct_target]
        needed += [multiport_match, addrtype_match, icmp_match, u32_match, mark_match]
    for probe in needed:
        _require(probe())
    for number in range(queue, queue + workers):
        _require_free_queue(number)


def warnings_for_run(
    client_iface: str, server_iface: str, *, with_kernel_path: bool = True
) -> list[Feature]:
    """Look at what does not keep the service from running, but its connections from working.

    ``with_kernel_path`` is whether established flows may be handed over to the kernel.
    """
    looked_at = [
        forwarding(),
        address_translation(),
        untracked(client_iface, server_iface),
        ipv6(client_iface, server_iface),
    ]
    if with_kernel_path:
        looked_at.append(mark_bit(client_iface, server_iface))
    return [feature for feature in looked_at if feature.ok is False]


def require_interfaces(client_iface: str, server_iface: str) -> None:
    """Raise ConfigError unless these are two different interfaces of this namespace."""
    there = sorted(name for _, name in socket.if_nameindex())
    for option, name in (("--client-iface", client_iface), ("--server-iface", server_iface)):
        if name not in there:
            raise ConfigError(
                f"{option}: no interface {name!r} here; there are: {', '.join(there)}"
            )
    if client_iface == server_iface:
        raise ConfigError(
            f"--server-iface: {server_iface!r} is the client's interface too; "
            "the service stands between two different ones"
        )


def _require(feature: Feature) -> None:
    if not feature.ok:
        remedy = f"; {feature.remedy}" if feature.remedy else ""
        raise MissingFeatureError(f"{feature.name}: {feature.detail}{remedy}")


def _require_free_queue(queue: int) -> None:
    """See that no process is bound to the queue: a second one could not bind it either."""
    port_id = bound_to(queue)
    if port_id is not None:
        raise ConfigError(
            f"--queue: {queue} is in use in this namespace (netlink port {port_id}, as a rule "
            "the process id); stop that program or choose another number"
        )


def bound_to(queue: int) -> int | None:
    """Return the netlink port, as a rule the process id, that is bound to a queue."""
    bound = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    lines = bound.read_text(encoding="ascii").splitlines() if bound.exists() else []
    for number, port_id, *_ in map(str.split, lines):
        if int(number) == queue:
            return int(port_id)
    return None
