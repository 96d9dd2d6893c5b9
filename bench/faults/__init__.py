"""The fault tests: ``python -m bench.faults``, run as root from the checkout.

A few hundred connections of mixed sizes meet one kind of fault after the other,
directly and through the service at the same time: on the same four hosts,
across the same WAN, told apart by the server's port alone. What happens to a
packet is drawn from the client's port, the direction and the packet's number
in its connection (``nfq_zerortt/testbed/faults.py``), and each connection of
one way has a twin of the other way with the same client port and the same
data. So both ways meet the same faults at the same places, in the same moment,
and neither has better luck.
"""
