"""The plainest verdict handler there is: it accepts every packet.

``python -m bench.programs.accept_only PORT`` in ClientNIC's namespace; the
port's rules are those of the service, the queue has the port's number.
"""

from __future__ import annotations

import signal
import sys

from netfilterqueue import NetfilterQueue, Packet

from nfq_zerortt.kernel.queue import MAX_PACKETS
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.ports import PortSet

_RECEIVE_BUFFER = 32 << 20


def _accept(packet: Packet) -> None:
    packet.accept()


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Accept until SIGTERM."""
    (port,) = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    queue = NetfilterQueue()
    queue.bind(int(port), _accept, max_len=MAX_PACKETS, sock_len=_RECEIVE_BUFFER)
    rules = RuleSet.for_clientnic("eth0", "eth1", PortSet.parse(port), int(port))
    rules.apply()
    print('{"event": "service.ready"}', flush=True)
    try:
        queue.run()
    except KeyboardInterrupt:
        pass
    finally:
        rules.remove()
        queue.unbind()


if __name__ == "__main__":
    main()
