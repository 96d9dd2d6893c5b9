"""Running the system's own programs: ip, tc, sysctl, iptables.

The test network is built with the commands that one would type by hand; with
``echo`` each is shown as it runs, so that it can be repeated and learned from.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence

from nfq_zerortt import programs
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError

_DEBIAN_PACKAGE = {
    "ip": "iproute2",
    "tc": "iproute2",
    "sysctl": "procps",
    "iptables": "iptables",
    "ip6tables": "iptables",
}

_TIMEOUT_S = 60

Echo = Callable[[str], None]


def require_root() -> None:
    """Raise MissingFeatureError unless run as root."""
    if os.geteuid() != 0:
        raise MissingFeatureError(
            "the testbed makes network namespaces and needs root: run it with sudo"
        )


def require_programs() -> None:
    """Raise MissingFeatureError naming each program that is missing and its Debian package."""
    missing = [name for name in _DEBIAN_PACKAGE if programs.found(name) is None]
    if missing:
        packages = sorted({_DEBIAN_PACKAGE[name] for name in missing})
        raise MissingFeatureError(
            f"missing program {', '.join(missing)}: apt-get install {' '.join(packages)}"
        )


class CommandError(ZeroRttError):
    """A command of the system failed; the message names it and repeats what it said."""


class Commands:
    """Runs commands, one at a time.

    ``held_fd`` is kept open in every command. It is the testbed's lock: a
    command that outlives a killed ``up`` thus keeps the lock until it is done,
    and nobody tears down what is still being built.
    """

    def __init__(self, held_fd: int, echo: Echo | None = None) -> None:
        self.held_fd = held_fd
        self._echo = echo

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a command and return its output; CommandError when it fails."""
        if self._echo:
            self._echo(_as_typed(argv, stdin))
        try:
            done = subprocess.run(
                argv,
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                pass_fds=(self.held_fd,),
                env=programs.environment() | {"LC_ALL": "C"},
                check=False,
            )
        except FileNotFoundError:
            package = _DEBIAN_PACKAGE.get(argv[0], argv[0])
            raise MissingFeatureError(
                f"missing program {argv[0]}: apt-get install {package}"
            ) from None
        except subprocess.TimeoutExpired:
            raise CommandError(f"{shlex.join(argv)}: no answer within {_TIMEOUT_S} s") from None
        if done.returncode != 0:
            said = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
            raise CommandError(f"{shlex.join(argv)}: {said or f'exit status {done.returncode}'}")
        return done.stdout

    def succeeds(self, *argv: str) -> bool:
        """Run a command that asks a question; True when its exit status is 0."""
        try:
            self.run(*argv)
        except CommandError:
            return False
        return True

    def batch(self, namespace: str, lines: Sequence[str]) -> None:
        """Run several ``ip`` commands in a namespace (``ip -n NAMESPACE -batch -``)."""
        self.run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def _as_typed(argv: Sequence[str], stdin: str | None) -> str:
    command = shlex.join(argv)
    return command if stdin is None else f"{command} <<'END'\n{stdin}END"
