"""Several processes that handle packets, each those of a queue of its own.

The kernel's ``--queue-balance`` chooses the queue by the two addresses of a
packet, whichever way it goes, so all packets of a flow come to one worker, and
so do all flows of a client with a server. The process that was started handles
no packets then. It has what there is once: rules, control socket, state file,
the flows that the kernel carries. Workers are forked off, and are told by
orders (:mod:`nfq_zerortt.workers.orders`) what to do.
"""
