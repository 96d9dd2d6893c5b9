"""The two interfaces that the service is to stand between, and who else stands there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import listed_rules, tools
from nfq_zerortt.kernel.declarations import OWN_PREFIX
from nfq_zerortt.kernel.features.feature import Feature, not_looked_at
from nfq_zerortt.kernel.features.queues import bound_to
from nfq_zerortt.ports import ALL_PORTS, PortSet

_MASTERS = frozenset({"bridge", "bond", "team"})
"""Kinds of interfaces that take over their ports' packets: netfilter never names the port."""

_QUEUES = re.compile(r"--queue-(?:num|balance) (\d+)(?::(\d+))?")
_PORTS = re.compile(r"--dports (\S+)")


def interfaces(client_iface: str, server_iface: str) -> Feature:
    """Whether packets can be forwarded between these two, as far as their state tells."""
    name = "the two interfaces"
    sides = (("--client-iface", client_iface), ("--server-iface", server_iface))
    try:
        found = [hint for side in sides for hint in _state(*side)]
        found += _exchanged(client_iface, server_iface)
    except ZeroRttError as error:
        return not_looked_at(name, error)
    if not found:
        return Feature(name, True, False, f"{client_iface} and {server_iface} are up")
    details, remedies = zip(*found, strict=True)
    return Feature(name, False, False, "; ".join(details), "; ".join(remedies))


def _state(option: str, name: str) -> Iterator[tuple[str, str]]:
    """Give what is wrong with an interface, and its remedy."""
    described = _ip("-d", "link", "show", "dev", name)
    if not described:
        return
    (link,) = described
    if "LOOPBACK" in link["flags"]:
        yield (
            f"{name} is this host's loopback interface: nothing is forwarded over it",
            f"{option}: one that other hosts are on",
        )
    elif "UP" not in link["flags"]:
        yield f"{name} is down", f"ip link set {name} up"
    elif "NO-CARRIER" in link["flags"]:
        yield (
            f"{name} has no carrier",
            f"see that the other end of {name} is connected and up",
        )
    kind = link.get("linkinfo", {}).get("info_slave_kind")
    if kind in _MASTERS:
        master = link["master"]
        yield (
            f"{name} is a port of the {kind} {master}: forwarded packets come in and go "
            f"out by {master}, so none will be taken",
            f"{option} {master}",
        )


def _exchanged(client_iface: str, server_iface: str) -> Iterator[tuple[str, str]]:
    leaves_by = {route.get("dev") for route in _ip("-4", "route", "show", "default")}
    if client_iface in leaves_by and server_iface not in leaves_by:
        yield (
            f"the default route leaves by {client_iface}, which is to be the clients' side",
            "if the servers are there, exchange --client-iface and --server-iface",
        )


def _ip(*arguments: str) -> list[dict[str, Any]]:
    """Return what iproute2 says; nothing where it is not installed."""
    said = tools.run(["ip", "-j", *arguments])
    found = json.loads(said) if said else []
    return [one for one in found if one]  # an unknown device is shown as an empty object


def other_services(
    client_iface: str, server_iface: str, queues: Sequence[int], ports: PortSet
) -> Feature:
    """Whether a running service with other queues takes the same packets."""
    name = "other services"
    try:
        rules = listed_rules.of_iptables("ipv4", "iptables-legacy", "mangle")
    except ZeroRttError as error:
        return not_looked_at(name, error)
    found = dict(_taking(rules, client_iface, server_iface, queues, ports))
    if not found:
        return Feature(name, True, False, "no other service takes the same packets")
    described = ", ".join(f"queue {queue} (process {owner})" for queue, owner in found.items())
    return Feature(
        name,
        False,
        False,
        f"another service takes the same packets between {client_iface} and {server_iface}: "
        f"{described}; each packet gets to only one of the two",
        "stop one of them, or give each its own --ports",
    )


def _taking(
    rules: Sequence[Sequence[str]],
    client_iface: str,
    server_iface: str,
    queues: Sequence[int],
    ports: PortSet,
) -> Iterator[tuple[int, int]]:
    """Give the queue and the process of each living service whose rules overlap with ours."""
    for rule in rules:
        text = shlex.join(rule)
        if f"-i {client_iface} -o {server_iface} " not in f"{text} " or OWN_PREFIX not in text:
            continue
        taken, theirs = _QUEUES.search(text), _PORTS.search(text)
        if taken is None or "-p tcp" not in text or int(taken[1]) in queues:
            continue
        owner = bound_to(int(taken[1]))
        wanted = PortSet.parse(theirs[1].replace(":", "-")) if theirs else ALL_PORTS
        if owner is not None and wanted.overlaps(ports):
            yield int(taken[1]), owner
