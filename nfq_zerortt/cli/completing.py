"""What a shell offers behind an option, when the tabulator key is pressed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def one_of(names: Sequence[str]) -> Completing:
    """Return what offers these names."""
    return lambda _context, _parameter, begun: _beginning_with(begun, names)


def interfaces(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Offer the network interfaces that there are here."""
    return _beginning_with(begun, sorted(name for _, name in socket.if_nameindex()))


def _beginning_with(begun: str, names: Sequence[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]
