"""``nfq-zerortt run``: the service in the foreground."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from nfq_zerortt import config as settings
from nfq_zerortt.cli.completing import interfaces, one_of
from nfq_zerortt.notify import ServiceManager
from nfq_zerortt.starting import made_when_possible, signals_held


@click.command()
@click.option(
    "--client-iface",
    metavar="IF",
    help="Interface towards the clients.",
    shell_complete=interfaces,
)
@click.option(
    "--server-iface",
    metavar="IF",
    help="Interface towards the servers.",
    shell_complete=interfaces,
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help=f"Configuration file (TOML); {settings.DEFAULT_CONFIG} if it is there.",
)
@click.option(
    "--strategy",
    metavar="NAME",
    help=f"{', '.join(settings.STRATEGIES)}; default auto.",
    shell_complete=one_of(settings.STRATEGIES),
)
@click.option(
    "--data-path",
    metavar="NAME",
    help=f"{', '.join(settings.DATA_PATHS)}; default auto.",
    shell_complete=one_of(settings.DATA_PATHS),
)
@click.option("--ports", metavar="LIST", help="Server ports, as in 80,443,8000-8999; default all.")
@click.option("--queue", type=int, help="NFQUEUE number; default 0.")
@click.option(
    "--workers",
    type=int,
    help="Processes that handle packets, each with a queue of its own; default 1.",
)
@click.option("--rules/--no-rules", default=None, help="Set and remove the iptables rules.")
@click.option(
    "--realtime/--no-realtime", default=None, help="Run before ordinary processes (SCHED_FIFO)."
)
@click.option(
    "--log-format",
    metavar="NAME",
    help="json or console; default json.",
    shell_complete=one_of(settings.LOG_FORMATS),
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="debug, info, warning or error.",
    shell_complete=one_of(settings.LOG_LEVELS),
)
@click.option("--log-file", metavar="FILE", help="Append the log to FILE; default stderr.")
@click.option(
    "--control-socket",
    metavar="PATH",
    help=f"Where other commands ask this service; default {settings.DEFAULT_CONTROL_SOCKET}.",
)
@click.option("--state-file", metavar="FILE", help="Keep what is learned across restarts in FILE.")
def run(file: Path | None, **flags: Any) -> None:
    """Run the service between two interfaces until SIGTERM or SIGINT."""

    def read() -> settings.Config:
        return settings.load(file).with_flags(**flags)

    config = read()
    from nfq_zerortt.service import Service  # noqa: PLC0415 - needs a library that must be built

    def reread() -> None:
        nonlocal config
        config = read()

    manager = ServiceManager()
    # By hand, nothing is waited for, and Ctrl-C ends the start as it does any command.
    with signals_held() if manager.listens else nullcontext():
        service = made_when_possible(lambda: Service(config, read), manager, reread)
        if service is not None:
            service.run()
