"""Refuses HTTP requests that are meant for another host: a web page may send them.

A page of a stranger's can have its own name lead to 127.0.0.1 (DNS rebinding), and read what is
served there through a browser on this host. Its requests name that host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def only_for(app: WSGIApplication, host: str) -> WSGIApplication:
    """Return an application that answers as ``app`` if Host is that one or localhost, else 403.

    ``host`` is as in a URL. Any port will do, for it may have been forwarded. A request without
    Host is none of a browser's (RFC 9112, section 3.2).
    """
    allowed = re.compile(rf"(localhost|{re.escape(host)})(:\d*)?", re.IGNORECASE)

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = environ.get("HTTP_HOST")
        if asked is None or allowed.fullmatch(asked):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [f"Host must be {host} or localhost, unless --allow-remote is said\n".encode()]

    return guarded
