"""What this host's kernel, privileges and libraries allow, found out by trying.

Whatever would change something is tried in a network namespace that is gone
afterwards; this host's own settings are only read.
"""

from __future__ import annotations

import functools

from nfq_zerortt.kernel.features.feature import Feature, Probe
from nfq_zerortt.kernel.features.for_run import (
    require_for_run,
    require_interfaces,
    warnings_for_run,
)
from nfq_zerortt.kernel.features.foreign_rules import untracked
from nfq_zerortt.kernel.features.host import forwarding, ipv6, netem, reverse_path_filter
from nfq_zerortt.kernel.features.interfaces import interfaces
from nfq_zerortt.kernel.features.kernel_path import (
    bpf_filters,
    bpf_library,
    bpf_pins,
    bpf_programs,
    kernel_data_path,
    mark_bit,
)
from nfq_zerortt.kernel.features.netfilter import (
    addrtype_match,
    ct_target,
    icmp_match,
    iptables_command,
    iptables_is_nft,
    iptables_lock,
    ipv6_rules,
    mangle_table,
    mark_match,
    multiport_match,
    nfqueue,
    nfqueue_target,
    raw_table,
    served_families,
    u32_match,
)
from nfq_zerortt.kernel.features.privileges import (
    FIFO_PRIORITY,
    cap_net_admin,
    cap_net_raw,
    iptables_package,
    linux,
    netfilterqueue_package,
    other_packages,
    realtime,
)
from nfq_zerortt.kernel.features.queues import bound_to
from nfq_zerortt.kernel.features.translation import address_translation

__all__ = [
    "FIFO_PRIORITY",
    "Feature",
    "all_features",
    "bound_to",
    "iptables_is_nft",
    "ipv6",
    "kernel_data_path",
    "mark_bit",
    "require_for_run",
    "require_interfaces",
    "served_families",
    "warnings_for_run",
]

PROBES: tuple[Probe, ...] = (
    linux,
    cap_net_admin,
    cap_net_raw,
    netfilterqueue_package,
    iptables_package,
    other_packages,
    nfqueue,
    iptables_lock,
    mangle_table,
    raw_table,
    nfqueue_target,
    ct_target,
    multiport_match,
    addrtype_match,
    icmp_match,
    u32_match,
    mark_match,
    bpf_library,
    bpf_programs,
    bpf_filters,
    bpf_pins,
    mark_bit,
    realtime,
    forwarding,
    reverse_path_filter,
    address_translation,
    untracked,
    ipv6,
    ipv6_rules,
    iptables_command,
    netem,
)


def all_features(client_iface: str = "", server_iface: str = "") -> list[Feature]:
    """Look at everything that ``nfq-zerortt check`` shows, in its order.

    With the two interfaces, what depends on them is looked at as for a service between them.

    Raises:
        AbsentError: there is no such interface.
        ConfigError: one is not named, or it is the same one twice.
    """
    if not client_iface and not server_iface:
        return [probe() for probe in PROBES]
    require_interfaces(client_iface, server_iface)
    between: dict[Probe, Probe] = {
        probe: functools.partial(probe, client_iface, server_iface)
        for probe in (mark_bit, forwarding, address_translation, untracked, ipv6)
    }
    found = [between.get(probe, probe)() for probe in PROBES]
    return [*found, interfaces(client_iface, server_iface)]
