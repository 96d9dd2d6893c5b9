"""The control socket, the asker's side."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError

_PATIENCE_S = 10.0
_AGAIN_S = 0.05
_PIECE = 1 << 16
_ARRAY = '{"answer":['
"""How an answer begins that is an array."""

Pairs = list[tuple[str, Any]]


def ask(path: Path, request: str, **parameters: object) -> Any:
    """Ask the service behind the socket at ``path``, and return its answer.

    Raises:
        ConfigError: no socket can have that path.
        MissingFeatureError: the socket is not for this user.
        ZeroRttError: no service answers there, or it refuses the request.
    """
    with _asked(path, request, parameters) as pieces:
        answer = b"".join(pieces)
    return _read(answer, path)


def ask_each(
    path: Path,
    request: str,
    made_of: Callable[[Pairs], Any] = dict,
    **parameters: object,
) -> Iterator[Any]:
    """Ask for an array, and give its elements as they come: nobody keeps the whole text.

    ``made_of`` makes each object of its keys and values. Errors as of :func:`ask`, also when the
    answer breaks off in the middle.
    """
    decoder = json.JSONDecoder(object_pairs_hook=made_of)
    text, at, began = "", 0, False
    with _asked(path, request, parameters) as pieces:
        for piece in pieces:
            text, at = text[at:] + piece.decode("ascii", errors="replace"), 0
            if not began:
                if len(text) < len(_ARRAY) and not text.endswith("\n"):
                    continue
                if not text.startswith(_ARRAY):
                    text += "".join(more.decode("ascii", errors="replace") for more in pieces)
                    yield from _read(text.encode(), path)
                    return
                began, at = True, len(_ARRAY)
            while at < len(text):
                if text[at] == "]":
                    return
                try:
                    element, end = decoder.raw_decode(text, at)
                except ValueError:  # the rest of it is still to come
                    break
                if end == len(text):  # likewise, perhaps
                    break
                yield element
                at = end + (text[end] == ",")
    raise _hung_up(path)


@contextmanager
def _asked(path: Path, request: str, parameters: dict[str, object]) -> Iterator[Iterator[bytes]]:
    """Give the pieces of the answer: a line, unless the service hangs up."""
    line = json.dumps({"request": request, **parameters}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            _connect(connection, path)
            connection.sendall(line)
            yield _pieces(connection)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise ZeroRttError(
                f"no service answers at {path}: start one (nfq-zerortt run), or name its socket "
                "(--control-socket PATH)"
            ) from None
        except PermissionError:
            raise MissingFeatureError(f"{path} is for root only: run this as root") from None
        except TimeoutError:
            raise ZeroRttError(
                f"the service at {path} has not answered for {_PATIENCE_S:.0f} s"
            ) from None
        except ConnectionError:
            raise _hung_up(path) from None
        except OSError as error:
            raise ConfigError(f"option --control-socket {path}: {error}") from None


def _connect(connection: socket.socket, path: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.connect(os.fspath(path))
            return
        except BlockingIOError:  # others wait already, as many as may: connect(2), EAGAIN
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(_AGAIN_S)


def _pieces(connection: socket.socket) -> Iterator[bytes]:
    while piece := connection.recv(_PIECE):
        yield piece
        if piece.endswith(b"\n"):
            return


def _read(answer: bytes, path: Path) -> Any:
    if not answer.endswith(b"\n"):
        raise _hung_up(path)
    try:
        read = json.loads(answer)
        if "error" in read:
            raise ZeroRttError(f"the service at {path} says: {read['error']}")
        return read["answer"]
    except (ValueError, KeyError, TypeError):
        raise ZeroRttError(f"what answers at {path} is no service of this kind") from None


def _hung_up(path: Path) -> ZeroRttError:
    return ZeroRttError(f"the service at {path} has hung up: it is ending, or its log says why")
