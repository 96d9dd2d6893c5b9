"""What happened to a connection, from a capture or the log: ``nfq-zerortt explain``.

- ``captures``: capture files as packets of two sides, in order of time.
- ``logs``: the service's log as the packets that it tells of.
- ``explanation``: what is known of a flow, whatever it comes from; ``story`` finds the words.
- ``terminal``, ``plot``, ``page``: shown as text, and as a page with pictures.
"""
