"""The control socket, the asker's side."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError

_PATIENCE_S = 10.0
_AGAIN_S = 0.05
_PIECE = 1 << 16


def ask(path: Path, request: str, **parameters: object) -> Any:
    """Ask the service behind the socket at ``path``, and return its answer.

    Raises:
        ConfigError: no socket can have that path.
        MissingFeatureError: the socket is not for this user.
        ZeroRttError: no service answers there, or it refuses the request.
    """
    line = json.dumps({"request": request, **parameters}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            _connect(connection, path)
            connection.sendall(line)
            answer = _receive_line(connection)
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
            answer = b""
        except OSError as error:
            raise ConfigError(f"option --control-socket {path}: {error}") from None
    return _read(answer, path)


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


def _receive_line(connection: socket.socket) -> bytes:
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        piece = connection.recv(_PIECE)
        if not piece:
            return b""
        pieces.append(piece)
    return b"".join(pieces)


def _read(answer: bytes, path: Path) -> Any:
    if not answer:
        raise ZeroRttError(f"the service at {path} has hung up: it is ending, or its log says why")
    try:
        read = json.loads(answer)
        if "error" in read:
            raise ZeroRttError(f"the service at {path} says: {read['error']}")
        return read["answer"]
    except (ValueError, KeyError, TypeError):
        raise ZeroRttError(f"what answers at {path} is no service of this kind") from None
