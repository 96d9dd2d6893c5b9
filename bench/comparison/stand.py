"""A contender on hosts of its own, ready to be measured, and the programs at both ends."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from bench.comparison.contenders.contender import Contender
from bench.comparison.laboratory import (
    ANSWER_BYTES,
    BULK,
    ECHO,
    HTTP,
    HTTP_FAST_OPEN,
    TRANSFER,
    ComparisonLab,
)
from bench.comparison.machine import Memory, Usage, memory, usage
from bench.lab import SERVER, Conversation
from nfq_zerortt.errors import ZeroRttError

_ANSWER = hashlib.sha256(b"x" * ANSWER_BYTES).hexdigest()
_ADDRESSES = ip_network("10.0.3.128/26")
"""More addresses of the server host; its web server answers on all."""
_ASK_S = 90.0
_PROBE_PAUSE_S = 0.05
_COUNT = {"do": "count"}
_BEGIN_S = 15.0


class AbsentError(ZeroRttError):
    """This machine cannot have the contender; says what it lacks."""


class Stand:
    """One contender at work. Everything is gone with its laboratory."""

    def __init__(self, contender: Contender, lab: ComparisonLab, pids: Sequence[int]) -> None:
        self.name = contender.name
        self.lab = lab
        self._pids = pids
        self._namespaces = lab.namespaces()
        self._programs: dict[str, Conversation] = {}
        self._addresses = (str(address) for address in _ADDRESSES)

    # --- servers ----------------------------------------------------------------------------

    def serve_web(self, *, fast_open: bool) -> None:
        """Start the web server, by default as Linux has it, or with Fast Open as well."""
        self.lab.web_server(HTTP)
        self.lab.do("server", "ip", "route", "add", "local", str(_ADDRESSES), "dev", "lo")
        self.lab.do("servernic", "ip", "route", "add", str(_ADDRESSES), "via", SERVER)
        self.lab.do("client", "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535")
        if fast_open:  # listeners look at it when they begin
            self.lab.do("server", "sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x403")
            self.lab.web_server(HTTP_FAST_OPEN)

    def serve_echo(self) -> None:
        """Start the echo server."""
        self.lab.server_program("echo_server", [str(ECHO)])

    def serve_bulk(self) -> None:
        """Start the other end of bulk streams, and of transfers that are checked by hash."""
        self._programs["server"] = self.lab.talk("server", "bulk_end", "serve", str(BULK))
        self._ask("server", _COUNT)
        self.lab.server_program("transfer_server", [str(TRANSFER)])

    # --- clients ----------------------------------------------------------------------------

    def probe(self, times: int, *, fast_open: bool = False) -> dict[str, list[float]]:
        """Ask the web server some times; return the times in ms.

        Raises:
            ZeroRttError: one failed, or got another answer.
        """
        plan = {
            "host": SERVER,
            "port": HTTP_FAST_OPEN if fast_open else HTTP,
            "times": times,
            "pause_s": _PROBE_PAUSE_S,
            "answer": _ANSWER,
        }
        result = self._ask("probe", plan)
        if result["failures"]:
            raise ZeroRttError(f"{self.name}: web server: {'; '.join(result['failures'][:3])}")
        return {name: result[name] for name in ("connect_ms", "first_byte_ms")}

    def crowd(self, to: int) -> None:
        """Have so many connections open and alive.

        Raises:
            ZeroRttError: it cannot be done, or one of those before has failed.
        """
        result = self._ask("crowd", {"host": SERVER, "port": ECHO, "to": to})
        if result["failures"] or result["open"] != to:
            said = "; ".join(sorted(set(result["failures"]))[:3])
            raise ZeroRttError(f"{self.name}: {result['open']} of {to} connections open: {said}")

    def connections(self, program: Path, number: int, at_a_time: int) -> float:
        """Open connections to the web server as fast as they go; return how long all took, s.

        Each time it is another address of the server, and the client has all its ports, so that
        none is used again while anybody remembers the connection before: Linux' random choice
        of the usual ones comes round after some three thousand.

        Raises:
            ZeroRttError: one failed.
        """
        address = next(self._addresses)
        argv = [str(program), address, str(HTTP), str(number), "0", str(at_a_time)]
        result = json.loads(self.lab.do("client", *argv))
        if result["complete"] != number:
            said = f"{result['complete']} of {number} connections complete: {result['error']}"
            raise ZeroRttError(f"{self.name}: {said}")
        return float(result["took_s"])

    def check_transfers(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, list[str]]:
        """Carry (bytes up, bytes down), all at once; return how many were right by SHA-256."""
        client = self.lab.interactive_client("transfer_client")
        plan = {"host": SERVER, "port": TRANSFER, "at_a_time": len(sizes), "sizes": sizes}
        result = client.ask(plan, _ASK_S)
        return result["complete"], result["failures"]

    @contextmanager
    def streams(self, number: int, direction: str) -> Iterator[Conversation]:
        """Let so many bulk streams run in the block, which begins when all of them do.

        Yields the end that receives.

        Raises:
            ZeroRttError: not all carry data after a while; or, at the end, a receiver got more or
                less than was sent.
        """
        plan = {"host": SERVER, "port": BULK, "streams": number, "direction": direction}
        receiver = "server" if direction == "up" else "client"
        carrying = self._ask(receiver, _COUNT)["carrying"]
        self._ask("client", {"do": "start", **plan})
        deadline = time.monotonic() + _BEGIN_S
        while self._ask(receiver, _COUNT)["carrying"] < carrying + number:
            if time.monotonic() > deadline:
                self._ask("client", {"do": "stop", "direction": direction})
                raise ZeroRttError(f"{self.name}: of {number} streams {direction} some never begin")
            time.sleep(0.02)
        yield self._programs[receiver]
        failures = self._ask("client", {"do": "stop", "direction": direction})["failures"]
        if failures:
            raise ZeroRttError(f"{self.name}: {number} streams {direction}: {failures[0]}")

    def _ask(self, name: str, plan: dict[str, Any]) -> dict[str, Any]:
        if name not in self._programs:
            self._programs[name] = self.lab.talk("client", {"client": "bulk_end"}.get(name, name))
        return self._programs[name].ask(plan, _ASK_S)

    # --- what it uses -----------------------------------------------------------------------

    def usage(self) -> Usage:
        """Return the processor time that was used until now."""
        return usage(self._namespaces, self._pids)

    def memory(self) -> Memory:
        """Return the memory that is used now."""
        return memory(self._pids)

    @property
    def has_process(self) -> bool:
        """Whether the contender is a process, not the kernel alone."""
        return bool(self._pids)


@contextmanager
def standing(contender: Contender, *, rtt_ms: float | None) -> Iterator[Stand]:
    """Set a contender up on hosts of its own; without ``rtt_ms`` there is no WAN between them.

    Raises:
        AbsentError: it cannot be set up here.
    """
    tag = "".join(letter for letter in contender.name.lower() if letter.isalnum())
    with ComparisonLab(rtt_ms=rtt_ms or 0.0, tag=tag) as lab:
        if rtt_ms is None:
            lab.take_wan_away()
            lab.set_offloads(on=True)
        try:
            pids = contender.up(lab)
        except ZeroRttError as error:
            raise AbsentError(str(error)) from error
        yield Stand(contender, lab, pids)
