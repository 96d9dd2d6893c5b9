"""What the service needs in order to run, and what it warns of."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

from nfq_zerortt.errors import AbsentError, ConfigError, MissingFeatureError
from nfq_zerortt.kernel.features.feature import AS_ROOT, Feature, Probe
from nfq_zerortt.kernel.features.foreign_rules import untracked
from nfq_zerortt.kernel.features.host import forwarding, ipv6
from nfq_zerortt.kernel.features.interfaces import interfaces, other_services
from nfq_zerortt.kernel.features.kernel_path import bpf_pins, mark_bit
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
from nfq_zerortt.kernel.features.queues import require_free_queue
from nfq_zerortt.kernel.features.translation import address_translation
from nfq_zerortt.ports import ALL_PORTS, PortSet


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
        ConfigError: the same interface twice.
        AbsentError: an interface that is not there, a queue in use.
        MissingFeatureError: no Linux, no privilege, no NFQUEUE, no legacy iptables.
    """
    _require(linux())
    require_interfaces(client_iface, server_iface)
    for number in range(queue, queue + workers):  # like interfaces, asked for again and again
        require_free_queue(number)
    needed: list[Probe] = [cap_net_admin, cap_net_raw, netfilterqueue_package, nfqueue]
    if with_rules:
        needed += [iptables_package, mangle_table, raw_table, nfqueue_target, ct_target]
        needed += [multiport_match, addrtype_match, icmp_match, u32_match, mark_match]
    for probe in needed:
        _require(probe())


def warnings_for_run(
    client_iface: str,
    server_iface: str,
    *,
    queues: Sequence[int] = (0,),
    ports: PortSet = ALL_PORTS,
    with_kernel_path: bool = True,
) -> list[Feature]:
    """Look at what does not keep the service from running, but its connections from working.

    All that could not be looked at, as while iptables is locked, is one warning.
    ``with_kernel_path`` is whether established flows may be handed over to the kernel.
    """
    looked_at = [
        interfaces(client_iface, server_iface),
        other_services(client_iface, server_iface, queues, ports),
        forwarding(client_iface, server_iface),
        address_translation(client_iface, server_iface, ports),
        untracked(client_iface, server_iface),
        ipv6(client_iface, server_iface),
    ]
    if with_kernel_path:
        looked_at += [mark_bit(client_iface, server_iface), bpf_pins()]
    found = [one for one in looked_at if one.ok is False]
    # What root alone may look at is left out: it would be said at every start of the service.
    unknown = [one for one in looked_at if one.ok is None and one.remedy != AS_ROOT]
    if unknown:
        first, *others = unknown
        names = ", ".join(one.name for one in others)
        found.append(replace(first, detail=first.detail + (names and f" (nor can {names})")))
    return found


def require_interfaces(client_iface: str, server_iface: str) -> None:
    """See that these are two different interfaces of this namespace.

    Raises:
        ConfigError: one is not named, or it is the same one twice.
        AbsentError: there is no such interface, for the moment at least.
    """
    there = sorted(name for _, name in socket.if_nameindex())
    for option, name in (("--client-iface", client_iface), ("--server-iface", server_iface)):
        if not name:
            raise ConfigError(f"{option} is needed, too; there are: {', '.join(there)}")
        if name not in there:
            raise AbsentError(
                f"{option}: no interface {name!r} here; there are: {', '.join(there)}"
            )
    if client_iface == server_iface:
        raise ConfigError(
            f"--server-iface: {server_iface!r} is the client's interface too; "
            "the service stands between two different ones"
        )


def _require(feature: Feature) -> None:
    # What could not be tried in a namespace of its own, as in a sandbox, will show by itself.
    if feature.ok is False:
        remedy = f"; {feature.remedy}" if feature.remedy else ""
        raise MissingFeatureError(f"{feature.name}: {feature.detail}{remedy}")
