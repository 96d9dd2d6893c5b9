"""What becomes of a TCP segment: flows, their states, and the translation of their numbers.

Segment and time in, actions out. The core opens no socket, reads no clock and
writes no log. :class:`~nfq_zerortt.core.engine.Engine` is its only door: it is
given the bytes of a packet, the side that they came from and the time, and
returns what is to be done. So the same code runs behind NFQUEUE, in a test of
three lines, and under a fuzzer.

How a connection goes (strategy *hold*):

1. The client's SYN is answered at once with a spoofed SYN-ACK, and goes on to
   the server with its own numbers, less the options that nobody promised.
2. What the client sends now acknowledges a number that the server never
   chose, so it is held.
3. The server's SYN-ACK is captured. Its ISN less the spoofed one is the flow's
   shift Δ; its options settle the other differences. The held segments leave,
   translated, and from here every segment is translated and passed on.
"""
