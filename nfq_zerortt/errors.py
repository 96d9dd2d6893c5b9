"""The errors that a user sees, each with the exit status of the command.

Every one of them is printed as a single line; none ever shows a traceback.
"""

from __future__ import annotations


class ZeroRttError(Exception):
    """Something went wrong that has a name. Exit status 1."""

    exit_status = 1


class ConfigError(ZeroRttError):
    """A wrong option, key or value: the message names it and what is allowed. Exit status 2."""

    exit_status = 2


class AbsentError(ConfigError):
    """What a setting names is not there, or is taken, which may change by itself.

    Exit status 2; under a service manager the service waits, and ends with 1 (``starting.py``).
    """


class MissingFeatureError(ZeroRttError):
    """A privilege or kernel feature is missing: the message names it and the remedy.

    Exit status 3.
    """

    exit_status = 3
