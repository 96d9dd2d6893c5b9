"""IPv6 is served like IPv4; and where the kernel has none, IPv4 is served and that is said."""

from __future__ import annotations

import json
import platform
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.chain import SERVER, SERVER6, Chain

SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
"""The number of the system call socket."""

WITHOUT_IPV6 = f"""
import ctypes, struct, sys
def statement(code, jt, jf, k):
    return struct.pack("=HBBI", code, jt, jf, k)
LOAD, IS, RETURN = 0x20, 0x15, 0x06                       # linux/bpf_common.h
program = b"".join([
    statement(LOAD, 0, 0, 0),                             # the number of the system call
    statement(IS, 0, 3, {SOCKET}),                      # socket
    statement(LOAD, 0, 0, 16),                            # its first argument
    statement(IS, 0, 1, 10),                              # AF_INET6
    statement(RETURN, 0, 0, 0x00050000 | 97),             # SECCOMP_RET_ERRNO, EAFNOSUPPORT
    statement(RETURN, 0, 0, 0x7FFF0000),                  # SECCOMP_RET_ALLOW
])
code = ctypes.create_string_buffer(program)
header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 6, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0                    # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, header, 0, 0) == 0               # PR_SET_SECCOMP
"""
"""From here on the process gets no IPv6 sockets: as on a kernel booted with ipv6.disable=1."""

BOTH = ("--client-iface", "cl0", "--server-iface", "sv0")


@pytest.fixture
def chain(chain: Chain) -> Chain:
    for family in ("", "6"):  # a rule there is warned of, which is not the matter here
        chain.router.run(f"ip{family}tables-legacy", "-F", "OUTPUT")
    return chain


def command(*argv: str, before: str = "") -> list[str]:
    return [
        sys.executable,
        "-c",
        f"{before}\nimport sys\nfrom nfq_zerortt import cli\n"
        f"sys.argv[1:] = {list(argv)}\ncli.main()\n",
    ]


def run(chain: Chain, *argv: str) -> tuple[int, str, str]:
    """A command of the product on a router whose kernel has no IPv6."""
    code = command(*argv, before=WITHOUT_IPV6)[-1]
    done = chain.router.python(code)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def service(chain: Chain, before: str = "") -> Iterator[list[dict[str, str]]]:
    """Run the service; give its events up to service.ready."""
    process = chain.router.start(*command("run", *BOTH, before=before))
    events: list[dict[str, str]] = []
    try:
        assert process.stdout is not None
        while not events or events[-1]["event"] != "service.ready":
            line = process.stdout.readline()
            assert line.startswith("{"), line + process.stdout.read()
            events.append(json.loads(line))
        yield events
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.communicate()


def warnings(events: list[dict[str, str]]) -> list[tuple[str, str]]:
    """What is warned of: the thing and the text."""
    return [
        (event["about"], event["warning"])
        for event in events
        if event["event"] == "service.warning"
    ]


def test_the_service_serves_both_families(chain: Chain) -> None:
    with service(chain) as events, chain.listening(chain.server, 80):
        assert warnings(events) == []
        for family, address in (("", SERVER), ("6", SERVER6)):
            assert "ZERORTT" in chain.router.saved(family)
            assert chain.fetch(address, 80) == "hello"
            assert all(chain.router.taken(family))
    for family in ("", "6"):
        assert "ZERORTT" not in chain.router.saved(family)


def test_without_ipv6_in_the_kernel_ipv4_is_served_and_nothing_is_warned_of(chain: Chain) -> None:
    with (
        service(chain, before=WITHOUT_IPV6) as events,
        chain.listening(chain.server, 80),
    ):
        assert warnings(events) == [], "nothing of it can pass here"
        assert chain.fetch(SERVER, 80) == "hello"
        assert all(chain.router.taken())
        assert "ZERORTT" not in chain.router.saved("6")
    assert "ZERORTT" not in chain.router.saved()


def test_without_ipv6_in_the_kernel_the_rules_are_those_of_ipv4(chain: Chain) -> None:
    status, _, errors = run(chain, "rules", "apply", *BOTH)
    assert status == 0
    assert errors.startswith("warning: no rules for ipv6: the kernel has none")
    assert errors.count("\n") == 1
    assert "ZERORTT" in chain.router.saved()
    assert "ZERORTT" not in chain.router.saved("6")
    status, output, _ = run(chain, "rules", "show", *BOTH)
    assert (status, output.splitlines()[0]) == (0, "# applied: yes")
    assert " -6 " not in output
    assert run(chain, "rules", "remove") == (0, "", "")
    assert "ZERORTT" not in chain.router.saved()


def test_without_ipv6_in_the_kernel_check_is_content_and_says_so(chain: Chain) -> None:
    status, output, _ = run(chain, "check")
    assert status == 0
    assert re.search(
        r"^ok +IPv6 +the kernel has none \(Address family .*only IPv4 is served$",
        output,
        re.MULTILINE,
    )
    assert re.search(r"^warning +ip6tables rules ", output, re.MULTILINE)


def test_ipv6_that_is_switched_off(chain: Chain) -> None:
    """On one side only it may be an oversight; on both it is what somebody wanted."""
    chain.router.run("sysctl", "-qw", "net.ipv6.conf.cl0.disable_ipv6=1")
    with service(chain) as events, chain.listening(chain.server, 80):
        ((about, text),) = warnings(events)
        assert about == "IPv6"
        assert "switched off by net.ipv6.conf.cl0.disable_ipv6" in text
        assert "although sv0 has addresses" in text
        assert chain.fetch(SERVER, 80) == "hello"
    chain.router.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with service(chain) as events:
        assert warnings(events) == []


def test_ipv6_that_is_not_forwarded_is_warned_of_where_there_are_addresses(chain: Chain) -> None:
    said = "print([f.detail for f in features.warnings_for_run('cl0', 'sv0')])"
    chain.router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    text = chain.router.do(said)
    assert "net.ipv6.conf.all.forwarding is off" in text
    assert "(cl0, sv0)" in text
    for name in ("cl0", "sv0"):
        chain.router.run("ip", "-6", "address", "flush", "dev", name, "scope", "global")
    assert chain.router.do(said) == "[]\n"
