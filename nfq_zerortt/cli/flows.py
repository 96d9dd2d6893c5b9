"""``nfq-zerortt flows``: the flow table of the running service, and what it learned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from nfq_zerortt.cli.asking import control_socket_option, socket_path
from nfq_zerortt.core.remembered import by_server
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.control_client import ask, ask_each

_AGAIN_S = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one array of objects.")
@click.option("--watch", is_flag=True, help="Again every second, until interrupted.")
@click.option("--learned", is_flag=True, help="Show what was learned of servers instead.")
@click.option("--clear", is_flag=True, help="With --learned: let the service forget all of it.")
@control_socket_option
def flows(
    as_json: bool, watch: bool, learned: bool, clear: bool, control_socket: str | None
) -> None:
    """Show the flows of the running service."""
    path = socket_path(control_socket)
    if clear:
        if not learned or watch:
            raise ConfigError("option --clear is allowed with --learned, and without --watch")
        _clear(path, as_json=as_json)
        return
    _show(path, as_json=as_json, watch=watch, learned=learned)


def _clear(path: Path, *, as_json: bool) -> None:
    forgotten: dict[str, int] = ask(path, "clear_learned")
    if as_json:
        click.echo(json.dumps(forgotten))
    else:
        click.echo("forgotten: " + ", ".join(f"{n} {what}" for what, n in forgotten.items()))


def _show(path: Path, *, as_json: bool, watch: bool, learned: bool) -> None:
    def fetch() -> Iterable[dict[str, Any]]:
        return by_server(ask(path, "learned")) if learned else ask_each(path, "flows")

    if as_json:
        _repeat(lambda: _print_array(fetch()), watch=watch)
        return
    from nfq_zerortt.cli.flow_tables import Screen  # noqa: PLC0415 - rich takes its time

    with Screen(learned=learned, live=watch) as screen:
        _repeat(lambda: screen.show(fetch()), watch=watch)


def _print_array(records: Iterable[dict[str, Any]]) -> None:
    """Print them as they come, in one line: there may be very many."""
    before = "["
    for record in records:
        click.echo(before + json.dumps(record), nl=False)
        before = ", "
    click.echo("[]" if before == "[" else "]")


def _repeat(step: Callable[[], None], *, watch: bool) -> None:
    try:
        step()
        while watch:
            time.sleep(_AGAIN_S)
            step()
    except KeyboardInterrupt:
        if not watch:
            raise
