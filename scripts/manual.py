"""Writes the manual pages and the shells' completions into a directory.

    python -m scripts.manual DIR

makes ``DIR/man/nfq-zerortt.8``, a page for each command beside it, and in ``DIR/completions``
the files for bash, zsh and fish under the names that these look for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from click.shell_completion import get_completion_class

from nfq_zerortt import __version__
from nfq_zerortt.cli import cli
from scripts.commands import EXIT_STATUSES, FILES, NAME, Command, all_commands

SECTION = "8"
COMPLETIONS = {"bash": NAME, "zsh": f"_{NAME}", "fish": f"{NAME}.fish"}
"""Shells, and what their completion files are called."""


def pages() -> dict[str, str]:
    """Return the manual pages by the names of their files."""
    whole = all_commands()
    return {
        f"{_name(command)}.{SECTION}": _page(command, whole) for command in (whole, *whole.parts)
    }


def completion(shell: str) -> str:
    """Return the completion script of a shell, which asks the command itself for what fits."""
    found = get_completion_class(shell)
    assert found is not None
    return found(cli, {}, NAME, f"_{NAME.upper().replace('-', '_')}_COMPLETE").source() + "\n"


def _name(command: Command) -> str:
    return "-".join(command.words)


def _page(command: Command, whole: Command) -> str:
    lines = [
        f'.TH {_name(command).upper()} {SECTION} "" "nfq_zerortt {__version__}" "{NAME}"',
        ".SH NAME",
        f"{_plain(_name(command))} \\- {_plain(command.purpose)}",
        ".SH SYNOPSIS",
        "\n.br\n".join(
            f".B {_plain(one.title)}\n{_plain(one.synopsis)}" for one in command.parts or [command]
        ),
        ".SH DESCRIPTION",
        *_paragraphs(command),
        *_options(command),
    ]
    if command is whole:
        lines.append(".SH COMMANDS")
        for part in command.parts:
            lines += [".TP", f".BR {_plain(_name(part))} ({SECTION})", _plain(part.purpose) + "."]
    else:
        for part in command.parts:
            lines += [
                f'.SH "{_plain(part.title)}"',
                *_paragraphs(part),
                *_options(part, heading=""),
            ]
    lines.append(".SH EXIT STATUS")
    lines += [line for one in EXIT_STATUSES for line in _entry(*one)]
    lines.append(".SH FILES")
    lines += [line for one in FILES for line in _entry(*one)]
    others = [one for one in (whole, *whole.parts) if one is not command]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_plain(_name(one))} ({SECTION})" for one in others)]
    lines += [
        ".PP",
        "The documents in /usr/share/doc/nfq\\-zerortt, where the package is installed.",
    ]
    return "\n".join(lines) + "\n"


def _paragraphs(command: Command) -> Iterator[str]:
    for number, paragraph in enumerate(command.about):
        if number:
            yield ".PP"
        yield _plain(paragraph)


def _options(command: Command, heading: str = ".SH OPTIONS") -> Iterator[str]:
    if command.options and heading:
        yield heading
    for option in command.options:
        yield from _entry(option.names, option.meaning)


def _entry(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_plain(term)}"
    yield _plain(meaning)


def _plain(text: str) -> str:
    """Return text that roff takes as it is: no line of it is a request."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main(arguments: list[str]) -> int:
    """Write everything; return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m scripts.manual DIR", file=sys.stderr)
        return 2
    manual, completions = Path(arguments[0], "man"), Path(arguments[0], "completions")
    for directory in (manual, completions):
        directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (manual / name).write_text(text, encoding="utf-8")
    for shell, name in COMPLETIONS.items():
        (completions / name).write_text(completion(shell), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
