"""``nfq-zerortt testbed``: the four hosts as network namespaces."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from nfq_zerortt.cli.completing import one_of
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.testbed.commands import require_programs, require_root
from nfq_zerortt.testbed.delayline_control import DelayLineStatus
from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.network import DEFAULT_NAME, Testbed, TestbedStatus
from nfq_zerortt.testbed.queue_process_control import KernelQueue
from nfq_zerortt.testbed.topology import load_topology
from nfq_zerortt.testbed.units import parse_mbit, parse_milliseconds, parse_percent
from nfq_zerortt.testbed.wan import WanSettings

_name = click.option(
    "--name",
    default=DEFAULT_NAME,
    show_default=True,
    metavar="NAME",
    help="Which testbed; several can be up at once.",
)


def _hosts(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    names = [host.name for host in load_topology().hosts]
    return one_of(names)(context, parameter, begun)


@click.group()
def testbed() -> None:
    """Four hosts in a chain on this machine: client, clientnic, servernic, server."""


@testbed.command()
@click.option("--rtt", default="100ms", show_default=True, help="The WAN's round trip, as in 0.1s.")
@click.option("--loss", default="0%", show_default=True, help="Lost in each direction, as in 0.5%.")
@click.option(
    "--rate", help="The WAN's rate in each direction, as in 100mbit; no limit without it."
)
@click.option(
    "--reorder", default="0%", show_default=True, help="Held back, so that others overtake."
)
@click.option("--reorder-by", default="5ms", show_default=True, help="Held back for so long.")
@click.option("--duplicate", default="0%", show_default=True, help="Arrives twice.")
@click.option("--seed", default=0, show_default=True, help="Of the faults that are drawn.")
@click.option("-v", "--verbose", is_flag=True, help="Show each command of the system as it runs.")
@_name
def up(
    *,
    rtt: str,
    loss: str,
    rate: str | None,
    reorder: str,
    reorder_by: str,
    duplicate: str,
    seed: int,
    verbose: bool,
    name: str,
) -> None:
    """Bring the four hosts up, or change the WAN of those that are up."""
    wanted = Testbed(
        name,
        rtt_ms=parse_milliseconds("--rtt", rtt),
        loss_percent=parse_percent("--loss", loss),
        rate_mbit=None if rate is None else parse_mbit("--rate", rate),
        reorder_percent=parse_percent("--reorder", reorder),
        reorder_ms=parse_milliseconds("--reorder-by", reorder_by),
        duplicate_percent=parse_percent("--duplicate", duplicate),
        seed=seed,
        echo=(lambda command: click.echo(f"+ {command}", err=True)) if verbose else None,
    )
    wanted.up()
    _print(wanted.status())


@testbed.command()
@_name
def down(name: str) -> None:
    """Take the four hosts down, with everything that runs on them."""
    was_up = Testbed(name).down()
    click.echo(f"testbed {name} is down" if was_up else f"testbed {name} was not up")


@testbed.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@_name
def status(as_json: bool, name: str) -> int:
    """Show what is up, the WAN, and how precise its delay is. Exit status 1 when it is not up."""
    found = Testbed(name).status()
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        _print(found)
    return 0 if found.up else 1


@testbed.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@_name
@click.argument("host", metavar="HOST", shell_complete=_hosts)
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, host: str, command: tuple[str, ...]) -> int:
    """Run a command on a host (client, clientnic, servernic, server); its exit status is ours.

    SIGTERM and SIGHUP are passed on to the command.
    """
    hosts = load_topology().host_names
    if host not in hosts:
        raise ConfigError(f"HOST {host!r}: must be one of {', '.join(hosts)}")
    require_root()
    require_programs()
    # Click leaves the -- that ends HOST and begins COMMAND in its place.
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise ConfigError("COMMAND is missing: testbed exec HOST -- COMMAND...")
    found = Testbed.find(name)
    returned = _run_and_pass_signals(lambda: found.popen(host, argv))
    return returned if returned >= 0 else 128 - returned


def _run_and_pass_signals(start: Callable[[], subprocess.Popen[Any]]) -> int:
    """Start a process and wait for it; who asks us to end asks the process, and it decides how.

    The keyboard's interrupt reaches the process without us.
    """
    process: subprocess.Popen[Any] | None = None
    early: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # What is ignored (nohup) stays so; a handler, unlike that, is not inherited.
    passed = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    interrupt = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        for number in passed:
            signal.signal(number, pass_on)
        process = start()
        for came in early:
            process.send_signal(came)
        return int(process.wait())
    finally:
        signal.signal(signal.SIGINT, interrupt)
        for number in passed:
            signal.signal(number, before[number])


def _print(found: TestbedStatus) -> None:
    if not found.up:
        click.echo(f"testbed {found.name}: {found.problem}")
        if not found.hosts:
            return
    else:
        click.echo(f"testbed {found.name} is up")
    for host in found.hosts:
        click.echo(
            f"  {host.name:<10} namespace {host.namespace}, {host.processes} processes, "
            f"{', '.join(host.addresses)}"
        )
    rate = "no rate limit" if found.rate_mbit is None else f"{found.rate_mbit:g} Mbit/s"
    click.echo(
        f"  WAN        RTT {found.rtt_ms:g} ms, loss {found.loss_percent:g} % each way, {rate}, "
        f"by {found.wan}"
    )
    click.echo(f"  TCP        congestion control {found.congestion_control}")
    if found.delay_line is not None:
        _print_delay_line(found.delay_line)
    if found.settings is not None and found.injector is not None:
        _print_faults(found.settings, found.injector)


def _print_delay_line(line: DelayLineStatus) -> None:
    late = line.lateness
    click.echo(
        f"  delay line pid {line.pid} ({line.scheduling}{'' if line.alive else ', dead'}), "
        f"{line.packets} packets"
    )
    click.echo(
        f"             late by {late.median_ms:.2f} ms median, {late.p95_ms:.2f} p95, "
        f"{late.p99_ms:.2f} p99, {late.max_ms:.2f} max"
    )
    _print_queue(line.queue)


def _print_faults(settings: WanSettings, injector: InjectorStatus) -> None:
    click.echo(
        f"  faults     reordered {settings.reorder_percent:g} % (by {settings.reorder_ms:g} ms), "
        f"duplicated {settings.duplicate_percent:g} %, seed {settings.seed}, "
        f"pid {injector.pid}{'' if injector.alive else ' (dead)'}"
    )
    click.echo(
        f"             of {injector.packets} packets lost {injector.lost}, "
        f"reordered {injector.reordered}, duplicated {injector.duplicated}"
    )
    _print_queue(injector.queue)


def _print_queue(queue: KernelQueue) -> None:
    click.echo(
        f"             kernel queue: {queue.waiting} waiting, {queue.dropped} dropped (full), "
        f"{queue.user_dropped} dropped (socket)"
    )
