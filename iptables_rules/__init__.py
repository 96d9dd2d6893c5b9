"""The iptables rules of the two routers, readable as rules.

Each ``*.rules`` file is in the format of iptables-save with named placeholders
in braces; ``nfq_zerortt.kernel.rules`` fills them in and applies the result.
"""

from __future__ import annotations

from importlib.resources import files

CLIENTNIC = "clientnic.rules"
SERVERNIC = "servernic.rules"


def read(name: str) -> str:
    """Return the text of the declarations ``name`` (CLIENTNIC or SERVERNIC)."""
    return (files(__name__) / name).read_text(encoding="utf-8")
