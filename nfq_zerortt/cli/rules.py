"""``nfq-zerortt rules``: the iptables rules by hand; ``run`` does it by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from nfq_zerortt.config import MOST_WORKERS
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import carried, features, leftovers
from nfq_zerortt.kernel.declarations import COMMANDS, FAMILIES
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.kernel.rules import LAST_QUEUE, RuleSet, for_removal
from nfq_zerortt.ports import PortSet

_Command = TypeVar("_Command", bound=Callable[..., object])

_queue = click.option(
    "--queue",
    type=click.IntRange(0, LAST_QUEUE),
    default=0,
    show_default=True,
    help="The NFQUEUE number; it names the chains too.",
)


_workers = click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    help="How many queues there are, from --queue on.",
)


def _selection(command: _Command) -> _Command:
    """Add the options that say which packets are selected."""
    for option in (
        _workers,
        _queue,
        click.option(
            "--ports",
            default="all",
            show_default=True,
            help="The server ports, for example 80,443,8000-8999.",
        ),
        click.option("--server-iface", required=True, help="The interface towards the servers."),
        click.option("--client-iface", required=True, help="The interface towards the clients."),
    ):
        command = option(command)
    return command


@click.group()
def rules() -> None:
    """The iptables rules that take packets to the service (run sets them by itself)."""


@rules.command()
@_selection
def show(client_iface: str, server_iface: str, ports: str, queue: int, workers: int) -> None:
    """Print the rules as ip(6)tables-legacy-restore takes them, and whether they are applied.

    Lines with -4 are for IPv4 only, lines with -6 for IPv6 only.
    """
    wanted = _wanted(client_iface, server_iface, PortSet.parse(ports), queue, workers)
    for line in [*_state(wanted), *_where_to_look(wanted), _kernel_path(queue)]:
        click.echo(f"# {line}")
    click.echo(wanted.text(), nl=False)


@rules.command()
@_selection
def apply(client_iface: str, server_iface: str, ports: str, queue: int, workers: int) -> None:
    """Set the rules, for IPv4 and IPv6; those of an earlier run with this queue are replaced."""
    selected = PortSet.parse(ports)
    features.require_interfaces(client_iface, server_iface)
    wanted = _wanted(client_iface, server_iface, selected, queue, workers)
    wanted.apply()
    for family in FAMILIES:
        if family not in wanted.families:
            click.echo(f"warning: no rules for {family}: {features.ipv6().detail}", err=True)


@rules.command()
@_queue
@click.option("--all", "every", is_flag=True, help="Those of every queue of which there are any.")
def remove(queue: int, every: bool) -> None:
    """Take away all rules of this queue number, IPv4 and IPv6, and its filters in the kernel.

    Nobody else's are touched. Established connections that are renumbered break: stop a
    service that runs (SIGTERM), and it lets them end first.
    """
    problems = []
    for number in leftovers.queues() if every else [queue]:
        try:
            _remove(number)
        except ZeroRttError as error:  # the others' are not left for that
            problems.append(error)
    if problems:
        raise problems[0]


def _remove(queue: int) -> None:
    cut = _carried(queue)
    running = features.bound_to(queue)
    try:
        for_removal(queue).remove()
    finally:
        removed = KernelPath.remove_all(queue)
    if removed:
        click.echo(f"kernel data path removed: {', '.join(removed)}")
    if cut:
        click.echo(f"warning: established connections that this has cut: {cut}", err=True)
    if running is not None:
        click.echo(
            f"warning: queue {queue} is in use (netlink port {running}, as a rule the process id): "
            "a service that sets its rules itself sets them again within seconds, and one with "
            "--no-rules gets no packets any more; stop or restart it",
            err=True,
        )


def _carried(queue: int) -> str:
    """Tell how many connections the kernel carries; empty for none."""
    if not carried.interfaces(queue):
        return ""
    try:
        return str(carried.established(queue) or "")
    except (ZeroRttError, OSError) as error:
        return f"unknown ({error})"


def _kernel_path(queue: int) -> str:
    """Tell what the kernel data path does for a queue."""
    interfaces = carried.interfaces(queue)
    if not interfaces:
        return "kernel data path: not attached"
    return (
        f"kernel data path: attached to {' and '.join(interfaces)}, established connections: "
        f"{_carried(queue) or 0}"
    )


def _wanted(
    client_iface: str, server_iface: str, ports: PortSet, queue: int, workers: int
) -> RuleSet:
    families = features.served_families()
    return RuleSet.for_clientnic(
        client_iface, server_iface, ports, queue, families, workers=workers
    )


def _state(wanted: RuleSet) -> list[str]:
    try:
        missing = wanted.missing()
    except MissingFeatureError as error:
        return [f"whether they are applied cannot be told: {error}"]
    if not missing:
        return ["applied: yes"]
    return ["applied: no, or not like this:", *(f"  {line}" for line in missing)]


def _where_to_look(wanted: RuleSet) -> list[str]:
    if not features.iptables_is_nft():
        return []
    commands = [
        f"{command}-legacy -t {table.name} -S"
        for family, command in COMMANDS.items()
        for table in wanted.tables
        if family in wanted.families
    ]
    return [
        "the iptables command of this host is the nft one and does not list these rules; "
        f"this does: {' ; '.join(commands)}"
    ]
