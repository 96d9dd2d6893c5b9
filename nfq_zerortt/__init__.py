"""nfq_zerortt: TCP connections that begin without waiting for the handshake.

On a router near the client, an NFQUEUE verdict handler answers a client's SYN
at once, carries on the real handshake with the server behind the client's
back, and keeps the numbers of both ends consistent from then on.
"""

__version__ = "0.1.0"
