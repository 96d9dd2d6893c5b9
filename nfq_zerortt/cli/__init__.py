"""The command ``nfq-zerortt``: parsing and printing, nothing else.

One file for each group of commands; this one puts them together and turns
every error into one line on stderr and the exit status that belongs to it.
"""

from __future__ import annotations

import sys

import click

from nfq_zerortt import __version__
from nfq_zerortt.cli.check import check
from nfq_zerortt.cli.demo import demo
from nfq_zerortt.cli.rules import rules
from nfq_zerortt.cli.run import run
from nfq_zerortt.cli.testbed import testbed
from nfq_zerortt.errors import ZeroRttError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nfq-zerortt")
def cli() -> None:
    """TCP without the handshake's wait, on a router near the client."""


for command in (run, check, rules, testbed, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the only place where errors become exit statuses."""
    try:
        status = cli.main(prog_name="nfq-zerortt", standalone_mode=False)
    except ZeroRttError as error:
        _fail(str(error), error.exit_status)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as in "| head"
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    print("nfq-zerortt: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
