"""Traces of real connections, made by ``python -m tests.captures`` as root."""
