"""One settings object: defaults, then the configuration file, then the command's flags.

The file is TOML; its keys are the names of the fields here, the limits in a
table ``[limits]``, servers treated in a way of their own in tables
``[[destination]]``. An unknown key is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from nfq_zerortt import destinations
from nfq_zerortt.destinations import Destination
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.ports import ALL_PORTS, PortSet

DEFAULT_CONFIG = Path("/etc/nfq-zerortt/config.toml")
DEFAULT_CONTROL_SOCKET = "/run/nfq-zerortt/control.sock"

MOST_WORKERS = 16

STRATEGIES = ("auto", "hold", "fastopen", "observe")
"""A new one goes into the entries of the kernel's map, too: ``flow_entry.STRATEGIES``."""
DATA_PATHS = ("auto", "python", "kernel")
WHEN_FULL = ("python", "pass")
LOG_FORMATS = ("json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error")


FAST_OPEN_PORTS = PortSet.parse("80,443,465,636,853,989-990,992-995,5061,8080,8443")
"""HTTP, and protocols that begin with TLS: what their clients say first may be said twice."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the core: what it keeps at most, and for how long.

    Attributes:
        max_flows: flows in the table; when it is full, new ones pass through untouched. The
            kernel's table has as much room again, fixed at the start of the service.
        max_half_open: flows whose handshake is not complete; likewise.
        held_bytes_per_flow: early data kept for one flow; beyond, a segment is not taken and
            the client repeats it.
        held_bytes_total: the same for all flows together.
        unanswered_per_prefix: spoofed SYN-ACKs that the clients of one prefix (/24, IPv6 /56) may
            leave unanswered; a tenth comes back each second. Beyond, new flows pass untouched.
        half_open_timeout_s: how long a client may take to acknowledge our SYN-ACK.
        syn_retry_ms: wait before the SYN to the server is repeated the first time; doubles, with a
            pause at one second.
        syn_retries: how often it is repeated before the client's connection is reset.
        fast_open_wait_ms: how long a SYN is kept back for the client's first data.
        leave_alone_s: connections to a server that refused, was unreachable or did not answer pass
            untouched until it accepts one, or nobody has asked for it for so long. 0: they do not.
        idle_timeout_s: an established flow without a packet for so long is forgotten; the
            default is what Linux' connection tracking uses.
        time_wait_s: how long the numbers of a closed flow are kept, for repeated FINs.
        reset_linger_s: the same after a RST.
    """

    max_flows: int = 65536
    max_half_open: int = 4096
    held_bytes_per_flow: int = 131_072
    held_bytes_total: int = 67_108_864
    unanswered_per_prefix: int = 1000
    half_open_timeout_s: int = 10
    syn_retry_ms: int = 250
    syn_retries: int = 11
    fast_open_wait_ms: int = 10
    leave_alone_s: int = 60
    idle_timeout_s: int = 432_000
    time_wait_s: int = 65
    reset_linger_s: int = 10

    def share(self, number: int, of: int) -> Limits:
        """Return the limits of one worker; ``number`` is 0 for the first ``of`` so many.

        What counts for all flows together is shared out, so that the sums are what was promised.
        """
        return replace(
            self, **{name: (getattr(self, name) + of - 1 - number) // of for name in _SHARED}
        )


_SHARED = ("max_flows", "max_half_open", "held_bytes_total", "unanswered_per_prefix")


@dataclass(frozen=True, slots=True)
class Config:
    """What ``nfq-zerortt run`` is told, by file and by flags.

    ``realtime`` asks for the scheduling class SCHED_FIFO (sched(7)): a SYN is then not kept
    waiting by whatever else the machine does. ``kernel_full`` says what becomes of new flows while
    the kernel has no room for more: they stay with Python, or pass untouched. ``workers``: so many
    processes handle packets, by queues from ``queue`` on. ``control_socket`` and ``state_file`` may
    be empty: then there is none.
    """

    client_iface: str = ""
    server_iface: str = ""
    strategy: str = "auto"
    data_path: str = "auto"
    kernel_full: str = "python"
    ports: PortSet = ALL_PORTS
    fast_open_ports: PortSet = FAST_OPEN_PORTS
    queue: int = 0
    workers: int = 1
    rules: bool = True
    realtime: bool = True
    log_format: str = "json"
    log_level: str = "info"
    log_file: str = ""
    control_socket: str = DEFAULT_CONTROL_SOCKET
    state_file: str = ""
    destinations: tuple[Destination, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def with_flags(self, **flags: Any) -> Config:
        """Return the settings with the flags that were given (those that are not None).

        Raises:
            ConfigError: a value that is not allowed.
        """
        return _updated(self, {k: v for k, v in flags.items() if v is not None}, "option --")


def load(path: Path | None) -> Config:
    """Read the configuration file; without one that was asked for, the defaults.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has a wrong key or value.
    """
    file = DEFAULT_CONFIG if path is None else path
    try:
        if path is None and not file.exists():
            return Config()
        if file.exists() and not file.is_file():
            # It is read again at SIGHUP, amid packets: what may block is no place for it.
            raise ConfigError(f"the configuration file {file} is not a regular file")
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    config = replace(
        Config(),
        destinations=destinations.read(values.pop("destination", []), STRATEGIES, f"{file}: key "),
    )
    limits = values.pop("limits", {})
    if not isinstance(limits, dict):
        raise ConfigError(f"{file}: limits must be a table")
    config = _updated(config, values, f"{file}: key ")
    return replace(config, limits=_updated(config.limits, limits, f"{file}: key limits."))


_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "strategy": STRATEGIES,
    "data_path": DATA_PATHS,
    "kernel_full": WHEN_FULL,
    "log_format": LOG_FORMATS,
    "log_level": LOG_LEVELS,
}
_RANGES: Mapping[str, tuple[int, int]] = {
    "queue": (0, 65535),
    "workers": (1, MOST_WORKERS),
    "max_flows": (1, 10_000_000),
    "max_half_open": (1, 10_000_000),
    "held_bytes_per_flow": (0, 1 << 30),
    "held_bytes_total": (0, 1 << 36),
    "unanswered_per_prefix": (1, 10_000_000),
    "half_open_timeout_s": (1, 3600),
    "syn_retry_ms": (10, 60_000),
    "syn_retries": (0, 20),
    "fast_open_wait_ms": (0, 1000),
    "leave_alone_s": (0, 3600),
    "idle_timeout_s": (1, 10_000_000),
    "time_wait_s": (1, 3600),
    "reset_linger_s": (1, 3600),
}

_TABLES = frozenset({"limits", "destinations"})
"""Not keys of their own: read from tables."""

_Settings = TypeVar("_Settings", Config, Limits)


def _updated(settings: _Settings, values: Mapping[str, Any], where: str) -> _Settings:
    known = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in _TABLES}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        shown = where + (name.replace("_", "-") if where.endswith("--") else name)
        if name not in known:
            raise ConfigError(f"{shown} is unknown; allowed: {', '.join(sorted(known))}")
        checked[name] = _checked(name, value, known[name], shown)
    return replace(settings, **checked)


def _checked(name: str, value: Any, example: Any, shown: str) -> Any:
    if isinstance(example, PortSet):
        if isinstance(value, PortSet):
            return value
        if isinstance(value, str | int) and not isinstance(value, bool):
            return PortSet.parse(str(value), shown)
        raise ConfigError(f"{shown} = {value!r}: a text such as '80,443,8000-8999' is allowed")
    if type(value) is not type(example):
        kind = {bool: "true or false", int: "a whole number", str: "a text"}[type(example)]
        raise ConfigError(f"{shown} = {value!r}: {kind} is allowed")
    if name in _ALLOWED and value not in _ALLOWED[name]:
        raise ConfigError(f"{shown} = {value!r}: allowed are {', '.join(_ALLOWED[name])}")
    if name in _RANGES:
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ConfigError(f"{shown} = {value}: a whole number from {low} to {high} is allowed")
    return value
