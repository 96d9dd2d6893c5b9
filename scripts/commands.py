"""What there is of commands and options, as click knows it: for the reference and the manual.

Both are made from this. click-man would make the manual, but knows of no exit status, no files,
and nothing of what the pages say beyond the help texts; and what this takes is little.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import click

from nfq_zerortt.cli import cli

NAME = "nfq-zerortt"

EXIT_STATUSES = (
    ("0", "all is well"),
    ("1", "something else went wrong"),
    ("2", "wrong usage or configuration: the message names the option or key, and what is allowed"),
    ("3", "a privilege or a kernel feature is missing: the message names it and the remedy"),
)
FILES = (
    ("/etc/nfq-zerortt/config.toml", "the configuration that run reads if no other is named"),
    ("/run/nfq-zerortt/control.sock", "where a running service is asked, by root alone"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """An option as it is shown: ``--rtt TEXT``, and what it does with its default."""

    names: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        words: what is typed, ``nfq-zerortt`` first.
        synopsis: what follows these words.
        about: paragraphs; the first sentence alone is what it does.
        options: all but ``--help``.
        parts: its subcommands.
    """

    words: tuple[str, ...]
    synopsis: str
    about: tuple[str, ...]
    options: tuple[Option, ...]
    parts: tuple[Command, ...]

    @property
    def title(self) -> str:
        """The words as one text."""
        return " ".join(self.words)

    @property
    def purpose(self) -> str:
        """What it does, in a sentence without its full stop."""
        return self.about[0].partition(". ")[0].rstrip(".")


def all_commands() -> Command:
    """Return the command with all that is below it."""
    return _described(cli, (NAME,), None)


def _described(
    command: click.Command, words: tuple[str, ...], above: click.Context | None
) -> Command:
    context = click.Context(command, info_name=words[-1], parent=above, **command.context_settings)
    parts = command.list_commands(context) if isinstance(command, click.Group) else []
    return Command(
        words,
        " ".join(command.collect_usage_pieces(context)),
        tuple(_paragraphs(command.help or "")),
        tuple(_options(command, context)),
        tuple(_described(_part(command, context, one), (*words, one), context) for one in parts),
    )


def _part(group: click.Command, context: click.Context, name: str) -> click.Command:
    assert isinstance(group, click.Group)
    found = group.get_command(context, name)
    assert found is not None
    return found


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).replace("\b\n", "").split("\n\n"):
        yield " ".join(paragraph.split())


def _options(command: click.Command, context: click.Context) -> Iterator[Option]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            yield Option(*record)
