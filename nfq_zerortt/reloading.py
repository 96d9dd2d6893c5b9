"""Settings: whether they can be served, and what of them may change in a running service."""

from __future__ import annotations

from dataclasses import fields

from nfq_zerortt.config import Config
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.kernel.rules import LAST_QUEUE

NEEDS_RESTART = {
    "client_iface",
    "server_iface",
    "queue",
    "workers",
    "rules",
    "realtime",
    "data_path",
    "log_format",
    "log_file",
    "control_socket",
    "state_file",
}
"""The keys whose values a running service cannot change."""


def check(config: Config) -> None:
    """Look at what no single setting tells.

    Raises:
        ConfigError: an interface is missing, or there are fewer queues than workers.
    """
    for option, value in (
        ("--client-iface", config.client_iface),
        ("--server-iface", config.server_iface),
    ):
        if not value:
            raise ConfigError(f"{option} is needed: the interface on that side of this router")
    last = config.queue + config.workers - 1
    if last > LAST_QUEUE:
        raise ConfigError(
            f"--workers: {config.workers} workers from --queue {config.queue} on need queues up to "
            f"{last}; the last one is {LAST_QUEUE}"
        )


def changes(old: Config, new: Config) -> list[str]:
    """Return the keys whose values are new.

    Raises:
        ZeroRttError: the new settings cannot be served, or not without a restart.
    """
    check(new)
    changed = {f.name for f in fields(Config) if getattr(old, f.name) != getattr(new, f.name)}
    if changed & NEEDS_RESTART:
        names = ", ".join(sorted(changed & NEEDS_RESTART))
        raise ZeroRttError(f"{names}: restart to change this")
    return sorted(changed)
