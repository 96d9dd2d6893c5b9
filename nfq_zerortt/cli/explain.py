"""``nfq-zerortt explain``: what happened to a connection, from a capture or the service's log."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfq_zerortt.errors import ConfigError

if TYPE_CHECKING:
    from nfq_zerortt.explaining.explanation import Explanation
    from nfq_zerortt.explaining.flows import Listing

_PIPE_WIDTH = 100
_WIDEST = 140


@click.command()
@click.argument(
    "files",
    metavar="FILE [FILE]",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--flow",
    metavar="F",
    help='Which one: its number in the list, "10.0.1.2:43210>10.0.3.2:80", or an endpoint.',
)
@click.option(
    "--html", metavar="OUT", type=click.Path(path_type=Path), help="Write it as one page, too."
)
@click.option(
    "--svg", metavar="OUT", type=click.Path(path_type=Path), help="Write the ladder as a picture."
)
def explain(files: tuple[Path, ...], flow: str | None, html: Path | None, svg: Path | None) -> None:
    """Explain a flow: in words, as a ladder diagram and as bytes over time.

    FILE is what `nfq-zerortt trace` has written, any other capture (pcap, pcapng) with one or both
    sides of the service's host, two such captures with a side each, or the service's log (JSON
    lines). Without --flow: the list of the flows in it; or if there is only one, that one.
    """
    if len(files) > 2:
        raise ConfigError("FILE: two at most, one for each side")
    source = _Source(files)
    if flow is None:
        listing = source.listing()
        if len(listing.flows) != 1 or listing.others:
            if html is not None or svg is not None:
                raise ConfigError("--html and --svg show one flow: name it with --flow")
            _show_listing(listing)
            return
        flow = str(listing.flows[0].number)
    made = source.explained(flow)
    from nfq_zerortt.explaining import page, terminal  # noqa: PLC0415

    for path, make in ((html, page.page), (svg, page.picture)):
        if path is not None:
            try:
                path.write_text(make(made), encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from None
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    _print(terminal.show(made, _width(), ascii_only=ascii_only))


class _Source:
    def __init__(self, files: tuple[Path, ...]) -> None:
        from nfq_zerortt.explaining import flows, logs  # noqa: PLC0415 - scapy takes its time

        self._files = files
        self._flows = flows
        self._logs = logs
        self._is_log = len(files) == 1 and logs.is_log(files[0])

    def listing(self) -> Listing:
        if self._is_log:
            return self._logs.listing(self._files[0])
        return self._flows.listing(self._files)

    def explained(self, flow: str) -> Explanation:
        if self._is_log:
            return self._logs.explained(self._files[0], flow)
        return self._flows.explained(self._files, flow)


def _show_listing(listing: Listing) -> None:
    from nfq_zerortt.explaining.terminal import show_listing  # noqa: PLC0415

    _print(show_listing(listing))
    print("Name one with --flow.", file=sys.stderr)


def _print(lines: Iterator[str]) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    for line in lines:  # files are others': what they name must not command the terminal
        click.echo("".join(one if one.isprintable() else "\ufffd" for one in line))


def _width() -> int:
    if not sys.stdout.isatty():
        return _PIPE_WIDTH
    return min(shutil.get_terminal_size().columns, _WIDEST)
