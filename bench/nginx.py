"""The configuration of an nginx that needs nothing of this machine's, and leaves nothing on it."""

from __future__ import annotations

from pathlib import Path

_MAIN = """\
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log {directory}/nginx.error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
{server}
    }}
}}
"""


def write_configuration(directory: Path, *server: str, connections: int = 512) -> list[str]:
    """Write ``nginx.conf`` into a directory; return the arguments with which nginx takes it.

    ``server`` are the lines of its one server block; ``connections`` how many it has at a time.
    """
    file = directory / "nginx.conf"
    text = _MAIN.format(
        directory=directory,
        server="\n".join(f"        {line}" for line in server),
        connections=connections,
        files=2 * connections + 96,  # one for each end: it may hand on what it is asked for
    )
    file.write_text(text, encoding="utf-8")
    return ["-p", str(directory), "-c", str(file)]
