"""Simulated ends for tests of the core: honest small TCPs, a network that is not, and a judge.

Nothing here is a mock of the core: packets are bytes, made and read at both ends as two hosts
would, and the engine between them is the real one. :class:`~tests.core.model.world.World` puts
the parts together.
"""
