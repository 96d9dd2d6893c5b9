"""``nfq-zerortt log-level``: how much the running service writes to its log."""

from __future__ import annotations

import click

from nfq_zerortt.cli.asking import control_socket_option, socket_path
from nfq_zerortt.config import LOG_LEVELS
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.control_client import ask


@click.command(name="log-level")
@click.argument("level", required=False)
@control_socket_option
def log_level(level: str | None, control_socket: str | None) -> None:
    """Set the level of the running service's log, until SIGHUP; without LEVEL, show it.

    LEVEL is debug, info, warning or error.
    """
    path = socket_path(control_socket)
    if level is None:
        click.echo(ask(path, "log_level")["level"])
        return
    if level not in LOG_LEVELS:
        raise ConfigError(f"log-level {level!r}: allowed are {', '.join(LOG_LEVELS)}")
    told = ask(path, "log_level", level=level)
    click.echo(f"{told['level']} (was {told['was']})")
