"""``nfq-zerortt trace``: the packets of both sides into a file, with a comment on each changed."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

import click

from nfq_zerortt.cli.asking import control_socket_option, socket_path
from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.readable import counted

_SNAPLEN = 192  # IPv4 or IPv6 with some extension headers, TCP with all its options
_LEAST_SNAPLEN = 60
_MOST_SNAPLEN = 65_535
_MB = 1_000_000


@click.command()
@click.argument("file", metavar="FILE.pcapng")
@click.option(
    "--flow",
    metavar="F",
    help='Only that: "10.0.1.2:43210>10.0.3.2:80", an endpoint as in "10.0.3.2:80", or a flow_id.',
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="End after S seconds.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N packets.")
@click.option(
    "--snaplen",
    type=click.IntRange(_LEAST_SNAPLEN, _MOST_SNAPLEN),
    help="Keep so many bytes of each packet, its data as well; default: its headers alone.",
)
@click.option(
    "--ring",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Several files of so many megabytes, FILE_00001.pcapng and so on.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="With --ring: how many files are kept, the newest.",
)
@click.option("--client-iface", metavar="IF", help="Towards the clients; default: the service's.")
@click.option("--server-iface", metavar="IF", help="Towards the servers; default: the service's.")
@control_socket_option
def trace(
    *,
    file: str,
    flow: str | None,
    duration: float | None,
    count: int | None,
    snaplen: int | None,
    ring: float | None,
    keep: int,
    client_iface: str | None,
    server_iface: str | None,
    control_socket: str | None,
) -> None:
    """Capture both sides of the running service into FILE, until interrupted.

    To be run where the service runs: as root, in its network namespace. FILE is pcapng, for
    Wireshark, tshark and `nfq-zerortt explain`; "-" is stdout. Each packet that was changed, held,
    kept or made by the service has a comment that says what was done and why.
    """
    if os.geteuid() != 0:
        raise MissingFeatureError("trace captures packets and needs root: run it with sudo")
    if ring is not None and file == "-":
        raise ConfigError("option --ring: it makes files, and FILE is -, which is stdout")
    service = _Service(control_socket)
    interfaces = _interfaces(service, client_iface, server_iface)
    from nfq_zerortt.tracing import selection, tracer  # noqa: PLC0415 - only if it is to be done
    from nfq_zerortt.tracing.files import Files  # noqa: PLC0415
    from nfq_zerortt.tracing.stdout import StandardOutput  # noqa: PLC0415
    from nfq_zerortt.tracing.taking import Taking  # noqa: PLC0415

    chosen = selection.Selection()
    if flow is not None:
        text = service.flow(int(flow)) if flow.isdecimal() else flow
        chosen = selection.parse(text)
    with (
        _signals() as asked_to_end,
        Taking(interfaces, chosen.expression(), snaplen or _SNAPLEN) as taking,
    ):
        head = tracer.head(interfaces, snaplen or _SNAPLEN, service.sentence())
        out = StandardOutput(_or_late(asked_to_end, duration)) if file == "-" else file
        files = Files(out, head, int((ring or 0) * _MB), keep)
        running = tracer.Tracer(files, interfaces, chosen, with_data=snaplen is not None)
        try:
            with closing(files):
                _say(
                    f"tracing {interfaces[0]} (clients) and {interfaces[1]} (servers); "
                    "Ctrl-C ends it"
                )
                summary = tracer.follow(
                    *(taking, running, files, asked_to_end), duration_s=duration, count=count
                )
        except ZeroRttError as error:
            taken = counted(running.summary.packets, "packet")
            raise type(error)(f"{error}; {taken} had been taken by then") from None
    dropped = f"{summary.dropped} dropped by the kernel"
    _say(
        f"{counted(summary.packets, 'packet')} of {counted(summary.flows, 'flow')}, "
        f"{summary.commented} with a comment, {dropped}; in {', '.join(files.names)}"
    )


class _Service:
    """The running service, asked once and only if there is need to."""

    def __init__(self, option: str | None) -> None:
        self._option = option
        self._about: dict[str, Any] | None = None
        self._error: ZeroRttError | None = None

    def about(self) -> dict[str, Any] | None:
        """Return what it says of itself; None if there is none."""
        if self._about is None and self._error is None:
            try:
                self._about = self._ask("service")
            except ZeroRttError as error:
                self._error = error
        return self._about

    def needed(self, remedy: str) -> dict[str, Any]:
        """Return what it says of itself; an error of asking, with a further remedy, if nothing."""
        about = self.about()
        if about is None:
            assert self._error is not None
            raise type(self._error)(f"{self._error}; or {remedy}")
        return about

    def flow(self, number: int) -> str:
        """Return a flow as the log writes it."""
        for record in self._ask("flows"):
            if record["flow_id"] == number:
                name: str = record["flow"]
                return name
        raise ConfigError(f"--flow {number}: the service has no flow of that number now")

    def sentence(self) -> str:
        """Return what the file says of it."""
        about = self.about()
        if about is None:
            return "Both sides of a host; no service answered when this trace began."
        return (
            f"Both sides of nfq-zerortt {about['version']}: strategy {about['strategy']}, "
            f"data path {about['data_path']}."
        )

    def _ask(self, request: str) -> Any:
        from nfq_zerortt.observe.control_client import ask  # noqa: PLC0415

        return ask(socket_path(self._option), request)


def _or_late(asked_to_end: Callable[[], bool], duration_s: float | None) -> Callable[[], bool]:
    """Return what tells whether the trace is to end, from now on."""
    until = math.inf if duration_s is None else time.monotonic() + duration_s
    return lambda: asked_to_end() or time.monotonic() >= until


def _interfaces(service: _Service, client: str | None, server: str | None) -> tuple[str, str]:
    if client is None or server is None:
        about = service.needed("name --client-iface and --server-iface")
        if about["network_namespace"] != os.stat("/proc/self/ns/net").st_ino:
            raise ConfigError(
                "the service runs in another network namespace: run trace there, as in "
                f"nsenter --net=/proc/{about['pid']}/ns/net nfq-zerortt trace …"
            )
        client, server = client or about["client_iface"], server or about["server_iface"]
    if client == server:
        raise ConfigError(f"--client-iface and --server-iface are both {client!r}")
    return client, server


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Note SIGINT, SIGTERM and SIGHUP inside the block: the file is then completed."""
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"nfq-zerortt: {text}", file=sys.stderr, flush=True)
