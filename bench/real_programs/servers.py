"""The servers of the real programs, on the testbed's server host.

Each has its own directory below the lab's, its own configuration and keys, and
is gone with the lab. Nothing of what this machine has configured is used.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.lab import Lab
from bench.nginx import write_configuration
from bench.real_programs.packages import program
from nfq_zerortt import programs
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError

HTTP, TLS, REDIS, POSTGRES, SSH, SSH_ELSEWHERE = 80, 443, 6379, 5432, 22, 2222
OBJECTS = 30
OBJECT_BYTES = 2000
CERTIFICATE_NAME = "server.test"

_GIT_BACKEND = 8418
_START_S = 15.0

_SSHD = """\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
Port {port}
Port {other}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


def clean_environment(lab: Lab) -> dict[str, str]:
    """Return an environment in which programs find no settings but their own."""
    return {
        "PATH": programs.PATH,
        "HOME": str(lab.directory),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        **{f"GIT_{who}_NAME": "nobody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "nobody@server.test" for who in ("AUTHOR", "COMMITTER")},
    }


def web(lab: Lab) -> None:
    """Start nginx, with and without TLS 1.3; some small files, and a git repository."""
    directory = _directory(lab, "web")
    files = directory / "files"
    files.mkdir()
    for number in range(1, OBJECTS + 1):
        (files / f"object{number}").write_bytes(os.urandom(OBJECT_BYTES))
    _run(
        lab,
        *(program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={CERTIFICATE_NAME}"),
        *("-addext", f"subjectAltName=DNS:{CERTIFICATE_NAME}"),
        *("-keyout", str(directory / "key.pem"), "-out", str(directory / "certificate.pem")),
    )
    options = write_configuration(
        directory,
        f"listen {HTTP};",
        f"listen {TLS} ssl;",
        "ssl_protocols TLSv1.3;",
        f"ssl_certificate {directory}/certificate.pem;",
        f"ssl_certificate_key {directory}/key.pem;",
        f"root {files};",
        f"location /project.git/ {{ proxy_pass http://127.0.0.1:{_GIT_BACKEND}; }}",
    )
    _serve(lab, [program("nginx"), *options], HTTP)


def git(lab: Lab) -> None:
    """Make a small repository; nginx serves it through ``git http-backend``."""
    directory = _directory(lab, "git")
    tree, bare = directory / "tree", directory / "project.git"
    git_program = program("git")
    _run(lab, git_program, "init", "-q", "-b", "main", str(tree))
    for number in range(20):
        (tree / f"file{number}").write_bytes(os.urandom(1000))
    _run(lab, git_program, "-C", str(tree), "add", ".")
    _run(lab, git_program, "-C", str(tree), "commit", "-q", "-m", "All files")
    _run(lab, git_program, "clone", "-q", "--bare", str(tree), str(bare))
    lab.server_program("git_backend", [str(_GIT_BACKEND), str(directory)])


def redis(lab: Lab) -> None:
    """Start redis-server; it keeps nothing."""
    directory = str(_directory(lab, "redis"))
    argv = [program("redis-server"), "--port", str(REDIS), "--bind", "0.0.0.0", "--dir", directory]
    _serve(lab, [*argv, "--save", "", "--appendonly", "no", "--protected-mode", "no"], REDIS)


def postgres(lab: Lab) -> None:
    """Start PostgreSQL with an empty database that trusts everybody.

    Raises:
        MissingFeatureError: there is no user postgres: it refuses to run as root.
    """
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise MissingFeatureError("no user postgres: apt-get install postgresql") from None
    directory = _directory(lab, "postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    lab.directory.chmod(0o711)  # postgres must reach its own
    as_postgres = [
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *("env", "-C", str(directory)),
    ]
    data = str(directory / "data")
    settings = ("-U", "postgres", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
    _run(lab, *as_postgres, program("initdb"), "-D", data, *settings)
    with (directory / "data" / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.write("host all all 10.0.0.0/8 trust\n")
    argv = [*as_postgres, program("postgres"), "-D", data, "-p", str(POSTGRES)]
    options = ("listen_addresses=*", "unix_socket_directories=", "fsync=off")
    _serve(lab, [*argv, *(word for each in options for word in ("-c", each))], POSTGRES)


def ssh(lab: Lab) -> None:
    """Start sshd with keys of its own; root may enter with the user's key."""
    directory = _directory(lab, "ssh")
    for name in ("host_key", "user_key"):
        key = ("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name))
        _run(lab, program("ssh-keygen"), *key)
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"{CERTIFICATE_NAME} {host_key}")
    configuration = directory / "sshd_config"
    configuration.write_text(_SSHD.format(directory=directory, port=SSH, other=SSH_ELSEWHERE))
    # sshd wants its directory in /run. `ip netns exec` gives it mounts of its own.
    command = 'mount -t tmpfs run /run && mkdir -m 755 /run/sshd && exec "$0" -D -e -f "$1"'
    _serve(lab, ["sh", "-c", command, program("sshd"), str(configuration)], SSH)


NEEDS: dict[Callable[[Lab], None], tuple[str, ...]] = {
    web: ("nginx", "openssl"),
    git: ("git",),
    redis: ("redis-server",),
    postgres: ("postgres", "initdb"),
    ssh: ("sshd", "ssh-keygen"),
}
"""The servers, in the order of their start, and what each needs."""


def _directory(lab: Lab, name: str) -> Path:
    directory = lab.directory / name
    directory.mkdir()
    return directory


def _run(lab: Lab, *argv: str) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, env=clean_environment(lab), timeout=60, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"]
        raise ZeroRttError(f"{' '.join(argv[:3])} … failed: {said[-1]}")


def _serve(lab: Lab, argv: Sequence[str], port: int) -> None:
    log = lab.directory / f"server-{port}.log"
    with log.open("wb") as output:
        process = lab.background(
            "server", argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + _START_S
    while not _listens(lab, port):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise ZeroRttError(f"the server on port {port} did not start: {said[-1]}")
        time.sleep(0.05)


def _listens(lab: Lab, port: int) -> bool:
    sockets = lab.testbed.exec("server", ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout
    return any(
        words[1].endswith(f":{port:04X}") and words[3] == "0A"
        for line in sockets.splitlines()
        if len(words := line.split()) > 3
    )
