"""Rules that another program takes away from under a running service: noticed, and put back."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.addresses import IPV4
from support.chain import Namespace, namespaces
from support.peers import Peers, content, transfer
from support.service import ServiceProcess, rules
from support.transfers import Transfers

from nfq_zerortt.testbed.network import Testbed

COUNT = 3
FLUSHED = {
    # As at a restart of netfilter-persistent, or by hand.
    "all": "for table in raw mangle; do iptables-legacy -t $table -F; iptables-legacy -t $table -X;"
    " done",
    "chain": "iptables-legacy -t mangle -F ZERORTT-0",
    # As by a script that makes its chains anew.
    "jump": "iptables-legacy -t mangle -D FORWARD -j ZERORTT-0",
}


@pytest.mark.parametrize(
    ("data_path", "flushed", "tables"),
    [
        ("python", "all", ["ipv4 raw", "ipv4 mangle"]),
        ("kernel", "chain", ["ipv4 mangle"]),
        ("python", "jump", ["ipv4 mangle"]),
    ],
)
def test_flushed_rules_are_put_back(
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    data_path: str,
    flushed: str,
    tables: list[str],
) -> None:
    """Connections that have stalled meanwhile go on; new ones are answered at once again."""
    with ServiceProcess(network, tmp_path, "--data-path", data_path) as service:
        before = rules(network)
        with Transfers.going(network, IPV4, port, COUNT) as transfers:
            service.wait_for("flow.established", port=port, count=COUNT)
            network.exec("clientnic", ["sh", "-ec", FLUSHED[flushed]], timeout_s=10, check=True)
            lost = service.event("service.rules_lost")
            assert (lost["tables"], lost["put_back"], lost["level"]) == (tables, True, "warning")
            assert all(difference.startswith("missing: ") for difference in lost["differences"])
            assert "--noflush" in lost["remedy"]
            assert rules(network) == before
            transfer(*peers.pair(port + 1), content(3000))
            service.event("flow.synack_spoofed", port=port + 1)
            assert transfers.end()["failed"] == []
        assert service.events("flow.reset") == []


WATCHING = """
import asyncio, contextlib, json, os, resource, subprocess
from nfq_zerortt import applied_rules, rules_watch
from nfq_zerortt.applied_rules import AppliedRules
from nfq_zerortt.config import Config

rules_watch.EVERY_S = 0.05
SOME_LOOKS_S = 0.5
applied = AppliedRules(Config(client_iface="cl0", server_iface="sv0", ports=PortSet.parse("80")))

def shell(command):
    subprocess.run(["sh", "-ec", command], check=True)

def flush():
    shell("iptables-legacy -t mangle -F")

@contextlib.asynccontextmanager
async def watching(rules=applied):
    said = []
    task = asyncio.create_task(rules_watch.watch(
        rules,
        lambda name, fields: said.append({"event": name, **fields}),
        lambda: said.append({"event": "service.fault"}),
    ))
    try:
        yield said
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

async def until(said, count):
    for _ in range(200):
        if len(said) >= count:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(SOME_LOOKS_S)  # nothing more shall come
"""


def watched(host: Namespace, code: str) -> list[dict[str, Any]]:
    """Run the body of a coroutine, and return what was said: the list ``said`` at its end."""
    body = textwrap.indent(textwrap.dedent(code), "    ")
    printed = host.do(f"{WATCHING}\nasync def main():\n{body}\n    print(json.dumps(said))\n"
                      "asyncio.run(main())")  # fmt: skip
    said: list[dict[str, Any]] = json.loads(printed)
    return said


def test_what_cannot_be_put_back_is_said_once_and_tried_again() -> None:
    with namespaces(1) as (host,):
        first, second = watched(
            host,
            """
            await applied.apply()
            async with watching() as said:
                await asyncio.sleep(SOME_LOOKS_S)
                assert said == [], "nothing is missing"
                flush()
                good = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
                os.environ["XTABLES_LOCKFILE"] = "/nowhere/lock"
                await until(said, 1)
                os.environ["XTABLES_LOCKFILE"] = good
                await until(said, 2)
                await applied.remove_later()
                await asyncio.sleep(SOME_LOOKS_S)  # these are to be gone
            """,
        )
        assert (first["put_back"], second["put_back"]) == (False, True)
        assert "/nowhere/lock" in first["error"]
        assert "ZERORTT" not in host.saved()


def test_what_is_refused_again_later_is_said_again() -> None:
    with namespaces(1) as (host,):
        once, again = watched(
            host,
            """
            await applied.apply()
            good = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
            async with watching() as said:
                for count, action in ((1, flush), (1, rules(ports="80").apply), (2, flush)):
                    os.environ["XTABLES_LOCKFILE"] = good
                    action()
                    os.environ["XTABLES_LOCKFILE"] = "/nowhere/lock"
                    await until(said, count)
            """,
        )
        assert once == again
        assert once["put_back"] is False


MARKED = "ZERORTT-0 -i cl0 -o sv0 -m mark --mark 0x10000000/0x10000000 -j ZERORTT-0-DONE"


@pytest.mark.parametrize(
    ("changed", "difference", "remedy"),
    [
        pytest.param(
            f"iptables-legacy -t mangle -D {MARKED}; iptables-legacy -t mangle -A {MARKED}",
            f"not in its place: -A {MARKED}",
            "[[destination]]",
            id="order",
        ),
        # Of the same size: a multiport match has room for 15 ports.
        pytest.param(
            "iptables-legacy-restore < $SAVED",
            "missing: -A ZERORTT-0 -i cl0 -o sv0 -p tcp -m multiport --dports 80,443 -j NFQUEUE",
            "--noflush",
            id="older",
        ),
        pytest.param(
            "iptables-legacy -t mangle -I ZERORTT-0 -s 10.9.9.9 -j RETURN",
            "too much: further rules in chain ZERORTT-0",
            "[[destination]]",
            id="further",
        ),
    ],
)
def test_changed_rules_are_mended_and_said_once(
    tmp_path: Path, changed: str, difference: str, remedy: str
) -> None:
    with namespaces(1) as (host,):
        (said,) = watched(
            host,
            f"""
            os.environ["SAVED"] = {str(tmp_path / "saved")!r}
            applied_rules.COMPARE_EVERY_S = 0.1
            await applied.apply()
            shell("iptables-legacy-save -t mangle > $SAVED")
            await applied.select(PortSet.parse("443"))
            shell("iptables-legacy-save -t mangle | grep ZERORTT > $SAVED.before")
            async with watching() as said:
                await asyncio.sleep(SOME_LOOKS_S)
                shell({changed!r})
                await until(said, 1)
            shell("iptables-legacy-save -t mangle | grep ZERORTT | diff $SAVED.before -")
            """,
        )
        assert (said["event"], said["put_back"]) == ("service.rules_lost", True)
        assert said["tables"] == ["ipv4 mangle"]
        assert len(said["differences"]) == 1
        assert said["differences"][0].startswith(difference)
        assert remedy in said["remedy"]


def test_in_a_large_table_they_are_missed_as_soon_and_nothing_is_compared_in_vain() -> None:
    with namespaces(1) as (host,):
        others = [f"-A FORWARD -s 10.0.{i >> 8}.{i & 255} -j ACCEPT" for i in range(10_000)]
        host.run("iptables-legacy-restore", stdin="\n".join(["*mangle", *others, "COMMIT", ""]))
        lost, count = watched(
            host,
            """
            compared = []
            compare = RuleSet.differing
            RuleSet.differing = lambda rules: compared.append(1) or compare(rules)
            await applied.apply()
            async with watching() as said:
                await asyncio.sleep(SOME_LOOKS_S)
                shell("iptables-legacy -t mangle -F ZERORTT-0")
                async with asyncio.timeout(5):
                    while not said:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(SOME_LOOKS_S)
            said.append({"compared": len(compared)})
            """,
        )
        assert lost["put_back"] is True
        assert count["compared"] in (2, 3), (
            "at the start, when something has changed, and what was put back"
        )


def test_a_reload_meanwhile_is_no_loss() -> None:
    with namespaces(1) as (host,):
        said = watched(
            host,
            """
            await applied.apply()
            said = []
            for port in range(100, 120, 2):
                look = asyncio.create_task(applied.differing())
                await asyncio.sleep(0)  # it has begun
                reload = asyncio.create_task(applied.select(PortSet.parse(str(port))))
                await asyncio.sleep(0)
                said += [await look, await applied.differing()]
                await reload
            """,
        )
        assert said == [{}] * 20


def test_a_look_that_goes_wrong_is_said_once_and_not_the_last() -> None:
    with namespaces(1) as (host,):
        said = watched(
            host,
            """
            applied_rules.COMPARE_EVERY_S = 1000
            await applied.apply()
            assert await applied.differing() == {}  # nothing is under way when it goes wrong
            async with watching() as said:
                await asyncio.sleep(SOME_LOOKS_S)
                few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
                await until(said, 1)
                resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
                await asyncio.sleep(SOME_LOOKS_S)
                glance, applied_rules.outline = applied_rules.outline, None
                await until(said, 2)
                applied_rules.outline = glance
                flush()
                await until(said, 3)
            """,
        )
        assert len(said) == 3, said
        warning, fault, lost = said
        assert (warning["event"], warning["about"]) == ("service.warning", "rules")
        assert "Too many open files" in warning["warning"]
        assert fault["event"] == "service.fault"
        assert lost["put_back"] is True


def test_rules_that_are_somebody_elses_are_left_alone() -> None:
    """With --no-rules, who has set them may take them away."""
    with namespaces(1) as (host,):
        said = watched(
            host,
            """
            rules().apply()
            flush()
            config = Config(client_iface="cl0", server_iface="sv0", rules=False)
            async with watching(AppliedRules(config)) as said:
                await asyncio.sleep(SOME_LOOKS_S)
            """,
        )
        assert said == []
        assert "-A FORWARD" not in host.saved()
