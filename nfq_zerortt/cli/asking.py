"""The option that all commands have which ask a running service."""

from __future__ import annotations

from pathlib import Path

import click

from nfq_zerortt import config as settings
from nfq_zerortt.errors import ConfigError

control_socket_option = click.option(
    "--control-socket",
    metavar="PATH",
    help="The service's; default: as configured, or " + settings.DEFAULT_CONTROL_SOCKET + ".",
)


def socket_path(option: str | None) -> Path:
    """Return where to ask; ``option`` as it was given, None if it was not.

    Raises:
        ConfigError: by the configuration, there is no socket; or that is wrong.
    """
    if option is None:
        option = settings.load(None).control_socket
    if not option:
        raise ConfigError(
            "option --control-socket is empty: by it, or by the key control_socket in "
            f"{settings.DEFAULT_CONFIG}, name the service's socket"
        )
    return Path(option)
