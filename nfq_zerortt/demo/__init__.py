"""The demonstration: the same work direct and through the product, side by side, on real packets.

The two applications, ``client.py`` and ``server.py``, are ordinary programs that know nothing
of this package; everything else here starts them, watches the packets and shows what came out.
"""
