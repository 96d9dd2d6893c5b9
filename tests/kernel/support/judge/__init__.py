"""The judge of a capture: is every packet right, at every interface?

:mod:`support.checker` is where it is asked.

With Δ = real server ISN − spoofed ISN and τ = real TSval − spoofed TSval:

    client to server: SEQ unchanged, ACK += Δ, SACK edges += Δ, TSecr += τ
    server to client: SEQ −= Δ, TSval −= τ, ACK and SACK edges and TSecr unchanged

Both ends' numbers are taken from the two SYN-ACKs in the capture, not from the
service's log. What is not translated must be exactly as it was, but for the TTL
and what the server did not grant.

Transmit checksum offload must be off on the hosts (see the fixture ``network``):
otherwise a capture at the sending host shows checksums that are not filled in yet.
"""
