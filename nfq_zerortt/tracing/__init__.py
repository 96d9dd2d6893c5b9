"""Packets on both sides of the service, and what became of each: ``nfq-zerortt trace``.

Nothing here takes part in the service: packets are captured beside it, by tcpdump, so tracing
costs nothing while it is off, and flows that the kernel carries are seen like all others. What
the service did with a packet is found by comparing both sides.

- ``taking``: packets from tcpdump; ``link_layer``, ``packets``: what is in them.
- ``flow_table``, ``conversations``: each flow's packets, and which of them became which; ``known``:
  what they have shown; ``ways``: one direction; ``numbers``: how both sides count;
  ``shift_votes``: by how much they differ, without a handshake; ``icmp_errors``.
- ``own_packets``, ``kept_packets``: what the service's own packets are for, and why some stay.
- ``changes``, ``comments``: what was changed, and all that in words.
- ``pcapng``, ``files``, ``stdout``: the file, a ring of files, or stdout.
- ``tracer``: all of it put together.
"""
