"""What happened to a connection, from a capture or the log: ``nfq-zerortt explain``.

- ``captures``: capture files as packets of two sides, in order of time. ``directions`` tells the
  sides apart where no interface is named, ``distance`` whether both are one host's, ``breaks``
  whether a file is whole.
- ``logs``: the service's log as the packets that it tells of.
- ``explanation``: what is known of a flow, whatever it comes from; ``story`` finds the words,
  ``one_side`` those for a capture of one side; ``holes`` and ``round_trip`` measure for them.
- ``terminal``, ``plot``, ``page``: shown as text, and as a page with pictures.
"""
