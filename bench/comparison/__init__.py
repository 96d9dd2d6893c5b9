"""What a user would pick instead, side by side: ``python -m bench.comparison``, run as root.

Plain forwarding, the kernel's SYNPROXY, HAProxy as a transparent proxy and
this service by each data path take turns on ClientNIC of the same four hosts.
Each turn has hosts of its own, made for it, so none meets what another left;
within a repetition all have one turn, in an order that changes, so what else
the machine does meets all of them.
"""
