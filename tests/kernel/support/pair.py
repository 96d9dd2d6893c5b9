"""A network namespace with two interfaces for the programs, and with what tc shows of them."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from support.namespaces import inside

CLIENT, SERVER = "10.9.0.2", "10.9.0.1"
CLIENT_PORT, SERVER_PORT = 40000, 80
SHIFT = 1_000_000
REPOSITORY = Path(__file__).resolve().parents[3]
_PYTHON_PATH = (REPOSITORY, REPOSITORY / "tests" / "kernel", *sys.path)
_SEQ_AT = 14 + 20 + 4

_numbers = itertools.count()
_DIRECTION = DirectionEntry(*[0] * len(DirectionEntry._fields))
_FLOW = FlowEntry(*[0] * len(FlowEntry._fields))


def key(number: int = CLIENT_PORT) -> bytes:
    """Return the key of the flow with this client port."""
    ports = number.to_bytes(2, "big") + SERVER_PORT.to_bytes(2, "big")
    return layout.key(socket.inet_aton(CLIENT) + socket.inet_aton(SERVER) + ports)


def value(**fields: int) -> bytes:
    """Return an entry that adds SHIFT to what the client sends, and was handed over long ago."""
    return layout.pack(_DIRECTION._replace(seq_shift=SHIFT), _DIRECTION, _FLOW._replace(**fields))


def frame(seq: int = 1, flags: str = "A", destination: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    """Return a segment of the client's in an Ethernet frame."""
    tcp = TCP(sport=CLIENT_PORT, dport=SERVER_PORT, seq=seq, ack=1, flags=flags)
    return bytes(Ether(dst=destination) / IP(src=CLIENT, dst=SERVER) / tcp / b"data")


class Pair:
    """``c0`` and ``s0`` are for the client's and the server's program; ``c1``, ``s1`` their peers.

    The server's address is on ``c0``, so what comes in there is received, too.
    """

    def __init__(self) -> None:
        self.name = f"zt-pair-{os.getpid()}-{next(_numbers)}"
        _run(["ip", "netns", "add", self.name])
        self.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
        self.make_interfaces()

    def make_interfaces(self) -> None:
        """Make both pairs of interfaces, anew if they are there."""
        for side in "cs":
            self.sh(
                f"ip link del {side}0 2>/dev/null; ip link add {side}0 type veth peer name {side}1;"
                f"ip link set {side}0 up; ip link set {side}1 up"
            )
        self.sh(f"ip address add {SERVER}/24 dev c0")

    def sh(self, script: str) -> str:
        """Run a shell script inside; return what it prints. It must succeed."""
        return _run(["ip", "netns", "exec", self.name, "sh", "-c", script])

    def python(
        self, script: str, *, before: Sequence[str] = (), as_nobody: str = ""
    ) -> subprocess.Popen[str]:
        """Start a Python script inside, behind the command ``before``; its /sys is the host's.

        With ``as_nobody`` it runs as nobody, with these capabilities in setpriv's words.
        """
        argv = [*before, "nsenter", f"--net=/run/netns/{self.name}", "--"]
        if as_nobody:
            ids = ["--reuid=65534", "--regid=65534", "--clear-groups"]
            kinds = [f"--{kind}={as_nobody}" for kind in ("inh-caps", "ambient-caps")]
            argv += ["setpriv", *ids, *kinds, f"--bounding-set={as_nobody}"]
        return subprocess.Popen(
            [*argv, sys.executable, "-c", script],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _PYTHON_PATH))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self, interfaces: str = "c0 s0") -> str:
        """Return what tc shows of interfaces: queueing disciplines and filters, with their ids."""
        return self.sh(
            f"for i in {interfaces}; do tc qdisc show dev $i; "
            "tc filter show dev $i ingress; tc filter show dev $i egress; done"
        )

    @contextmanager
    def receiving(self) -> Iterator[Receiver]:
        """Receive at ``c0`` what is sent from ``c1``."""
        with inside(self.name):
            receiver = Receiver()
        try:
            yield receiver
        finally:
            receiver.close()

    def remove(self) -> None:
        """Remove the namespace, and with it all that is in it."""
        _run(["ip", "netns", "del", self.name])


class Receiver:
    """Sends segments of the client's from ``c1``, and receives them behind the programs."""

    def __init__(self) -> None:
        self._receiving = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._receiving.settimeout(5)
        self._receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as asked:
            asked.bind(("c0", 0))
            mac = asked.getsockname()[4]
        self._frame = frame(destination=":".join(f"{byte:02x}" for byte in mac))
        self._sending = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._sending.bind(("c1", 0))

    def send(self, seq: int) -> None:
        """Send a segment with this sequence number; its TCP checksum is not kept right."""
        self._sending.send(
            self._frame[:_SEQ_AT] + seq.to_bytes(4, "big") + self._frame[_SEQ_AT + 4 :]
        )

    def receive(self) -> int:
        """Return the sequence number of the next segment of the client's."""
        while True:
            raw = self._receiving.recv(2048)
            if raw[12:16] == socket.inet_aton(CLIENT):
                return int.from_bytes(raw[24:28], "big")

    def exchange(self, seq: int = 1) -> int:
        """Send a segment and return the sequence number that it comes in with."""
        self.send(seq)
        return self.receive()

    def close(self) -> None:
        """Close the sockets."""
        self._receiving.close()
        self._sending.close()


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
