"""The command ``nfq-zerortt``: parsing and printing, nothing else.

One file for each group of commands; this one puts them together and turns
every error into one line on stderr and the exit status that belongs to it.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from nfq_zerortt import __version__
from nfq_zerortt.errors import ZeroRttError

_COMMANDS = (
    "check",
    "demo",
    "explain",
    "flows",
    "log-level",
    "rules",
    "run",
    "stats",
    "testbed",
    "top",
    "trace",
)


class _Commands(click.Group):
    """The commands, each imported when it is asked for: a start is short, and can be stopped."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"nfq_zerortt.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            raise click.UsageError(
                f"no command {args[0]!r}; there are: {', '.join(self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="nfq-zerortt")
def cli() -> None:
    """TCP without the handshake's wait, on a router near the client."""


def main() -> None:
    """Run the command line; the only place where errors become exit statuses."""
    try:
        status = cli.main(prog_name="nfq-zerortt", standalone_mode=False)
        sys.stdout.flush()
    except ZeroRttError as error:
        _fail(str(error), error.exit_status)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as in "| head"
        sys.exit(0)
    except OSError as error:
        _give_up_stdout()
        _fail(f"an error of the system: {error}", 1)  # the disk that stdout goes to is full
    sys.exit(status if isinstance(status, int) else 0)


def _give_up_stdout() -> None:
    """Let nothing more be written: the interpreter would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> None:
    print("nfq-zerortt: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
