"""``nfq-zerortt stats``: what the running service counts and measures."""

from __future__ import annotations

import errno
import ipaddress
import json
import signal
from pathlib import Path
from typing import Any

import click

from nfq_zerortt.cli.asking import control_socket_option, socket_path
from nfq_zerortt.cli.stat_lines import lines
from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.observe.control_client import ask

_ENDS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one object.")
@click.option("--prometheus", is_flag=True, help="In the text format of Prometheus.")
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    help="With --prometheus: serve it over HTTP until interrupted, as at 127.0.0.1:9464.",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="With --listen: also at an address that other hosts reach. Anybody there may read it.",
)
@control_socket_option
def stats(
    as_json: bool,
    prometheus: bool,
    listen: str | None,
    allow_remote: bool,
    control_socket: str | None,
) -> None:
    """Show what the running service counts and measures."""
    if as_json and prometheus:
        raise ConfigError("option --json is allowed without --prometheus")
    if listen is not None and not prometheus:
        raise ConfigError("option --listen is allowed with --prometheus")
    if allow_remote and listen is None:
        raise ConfigError("option --allow-remote is allowed with --listen")
    path = socket_path(control_socket)
    if listen is not None:
        _serve(path, *_address(listen, allow_remote=allow_remote), allow_remote=allow_remote)
        return
    told: dict[str, Any] = ask(path, "stats")
    if as_json:
        click.echo(json.dumps(told))
    elif prometheus:
        from nfq_zerortt.observe import exposition  # noqa: PLC0415 - takes its time

        click.echo(exposition.text(told), nl=False)
    else:
        for word, rest in lines(told):
            click.echo(f"{word:<13} {rest}")


def _address(listen: str, *, allow_remote: bool) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port)
        if not colon or not 0 < number < 1 << 16:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"option --listen {listen}: an address and a port are allowed, as in 127.0.0.1:9464 "
            "or [::1]:9464"
        ) from None
    if not address.is_loopback and not allow_remote:
        raise ConfigError(
            f"option --listen {listen}: other hosts reach this address, and nobody is asked for a "
            "password; choose 127.0.0.1 or ::1, or say --allow-remote"
        )
    return str(address), number


def _serve(path: Path, address: str, port: int, *, allow_remote: bool) -> None:
    """Serve until SIGINT or SIGTERM. This is a process of its own: no packet waits for a scrape."""
    from prometheus_client import make_wsgi_app, start_http_server  # noqa: PLC0415 - takes its time

    from nfq_zerortt.observe.exposition import registry  # noqa: PLC0415 - likewise
    from nfq_zerortt.observe.http_hosts import only_for  # noqa: PLC0415 - only needed here

    told = registry(lambda: ask(path, "stats"))
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # also in the threads that serve
    try:
        server, _ = start_http_server(port, address, told)
    except OSError as error:
        raise _refused(error, address, port) from None
    host = f"[{address}]" if ":" in address else address
    if not allow_remote:
        server.set_app(only_for(make_wsgi_app(told), host))
    click.echo(f"serving http://{host}:{port}/metrics", err=True)
    signal.sigwait(_ENDS)
    server.shutdown()


def _refused(error: OSError, address: str, port: int) -> ZeroRttError:
    if error.errno == errno.EADDRINUSE:
        return ZeroRttError(
            f"port {port} of {address} is in use by another process; stop that one, or choose "
            "another port with --listen"
        )
    if error.errno == errno.EACCES:
        return MissingFeatureError(f"port {port} is for root only: choose one from 1024 on")
    return ConfigError(f"option --listen {address}:{port}: {error.strerror or error}")
