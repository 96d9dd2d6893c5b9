"""Values with their unit, as they are typed on the command line."""

from __future__ import annotations

import re

from nfq_zerortt.errors import ConfigError

_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_PERCENT = {"%": 1.0}
_MBIT = {"kbit": 0.001, "mbit": 1.0, "gbit": 1000.0}


def parse_milliseconds(option: str, text: str) -> float:
    """Read a duration such as ``100ms`` or ``0.1s``; returns milliseconds. ConfigError if none."""
    return _parse(option, text, _MILLISECONDS, "a duration with its unit, as in 100ms or 0.1s")


def parse_percent(option: str, text: str) -> float:
    """Read a share such as ``1%``; returns percent. ConfigError if it is none."""
    return _parse(option, text, _PERCENT, "a percentage, as in 1% or 0.5%")


def parse_mbit(option: str, text: str) -> float:
    """Read a bit rate such as ``100mbit`` or ``1gbit``; returns Mbit/s. ConfigError if none."""
    return _parse(option, text, _MBIT, "a rate with its unit, as in 500kbit, 100mbit or 1gbit")


def _parse(option: str, text: str, units: dict[str, float], allowed: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z%]+)", text, re.ASCII)
    if match is None or match[2] not in units:
        raise ConfigError(f"{option} {text!r}: must be {allowed}")
    # Rounded, so that 0.1s is exactly what 100ms is.
    return round(float(match[1]) * units[match[2]], 9)
