"""How the benchmarks' commands are run: errors become one line."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from nfq_zerortt.errors import ZeroRttError


def run(command: click.Command, module: str) -> NoReturn:
    """Run the command of ``python -m MODULE`` and end with its exit status."""
    try:
        status = command.main(prog_name=f"python -m {module}", standalone_mode=False)
    except ZeroRttError as error:
        _fail(module, str(error), error.exit_status)
    except click.ClickException as error:
        _fail(module, error.format_message(), error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail(module, "interrupted; everything is taken down", 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(module: str, message: str, status: int) -> NoReturn:
    print(f"{module}: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
