"""``nfq-zerortt top``: the live view."""

from __future__ import annotations

import click

from nfq_zerortt.cli.asking import control_socket_option, socket_path
from nfq_zerortt.errors import ConfigError


@click.command()
@control_socket_option
def top(control_socket: str | None) -> None:
    """Watch the running service: its flows, and how it does; ? tells the keys."""
    from nfq_zerortt import live  # noqa: PLC0415 - takes its time
    from nfq_zerortt.live.terminal import can_be_taken  # noqa: PLC0415 - likewise

    if not can_be_taken():
        raise ConfigError(
            "top needs a terminal that can be drawn on, for input and output; elsewhere use "
            "'nfq-zerortt flows --watch' or 'nfq-zerortt stats'"
        )
    live.watch(socket_path(control_socket))
