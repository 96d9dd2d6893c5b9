"""`check`, and what `run` is refused: what the host allows."""

from __future__ import annotations

import fcntl
import re
import sys
import textwrap
from pathlib import Path

from support.chain import Chain, Namespace, cli, refusal


def test_check_is_content_with_root_and_leaves_nothing_behind(host: Namespace) -> None:
    before = host.saved()
    names = host.run("cat", "/proc/net/ip_tables_names")
    status, output, _ = cli(host, "check")
    assert status == 0, output
    assert output.splitlines()[-2] == "The service can run here."
    for name in ("NFQUEUE", "iptables target CT --notrack", "iptables match addrtype"):
        assert re.search(rf"^ok +{re.escape(name)} ", output, re.MULTILINE), output
    assert host.saved() == before
    assert host.run("cat", "/proc/net/ip_tables_names") == names
    assert "ZERORTT" not in host.saved("6")


def test_check_without_privileges_names_them_and_exits_3(host: Namespace) -> None:
    status, output, errors = cli(
        host, "check", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    )
    assert status == 3
    assert errors == ""
    assert re.search(r"^missing +CAP_NET_ADMIN .*to mend it: run as root", output, re.MULTILINE)
    assert re.search(r"^missing +CAP_NET_RAW ", output, re.MULTILINE)


def test_check_warns_of_what_would_bite(host: Namespace) -> None:
    host.run("ip", "link", "add", "some0", "type", "veth", "peer", "name", "some1")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.rp_filter=0",
             "net.ipv4.conf.some0.rp_filter=1", "net.ipv4.conf.some1.rp_filter=2")  # fmt: skip
    host.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "x0", "-j", "MASQUERADE")
    _, output, _ = cli(host, "check")
    assert re.search(r"^warning +IPv4 forwarding .*sysctl -w", output, re.MULTILINE)
    assert re.search(r"^warning +reverse path filter +strict on some0:", output, re.MULTILINE)
    assert re.search(r"^warning +no NAT in the way +NAT rules \(MASQUERADE\)", output, re.MULTILINE)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.some0.rp_filter=0")
    host.run("iptables-legacy", "-t", "nat", "-F")
    _, output, _ = cli(host, "check")
    for name in ("IPv4 forwarding", "reverse path filter", "no NAT in the way"):
        assert re.search(rf"^ok +{name} ", output, re.MULTILINE), output


def test_to_be_root_is_a_remedy_for_those_who_are_not(host: Namespace) -> None:
    said = """
        from nfq_zerortt.kernel.features.feature import not_looked_at
        print(not_looked_at("x", ZeroRttError("nft is broken")).remedy)
    """
    assert host.do(said) == "\n"
    done = host.python(said, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert done.stdout.startswith("run as root")


def test_check_sees_nat_in_nftables_too(host: Namespace) -> None:
    host.run("nft", "add table ip mynat; add chain ip mynat post "
             "{ type nat hook postrouting priority 100; }; "
             "add rule ip mynat post oifname x0 masquerade")  # fmt: skip
    _, output, _ = cli(host, "check")
    assert re.search(r"^warning +no NAT in the way +NAT rules \(MASQUERADE\)", output, re.MULTILINE)


def test_run_is_refused_in_one_line_where_it_cannot_work(chain: Chain) -> None:
    router = chain.router
    assert refusal(router, "features.require_for_run('cl0', 'sv0')") == "no objection"
    unknown = refusal(router, "features.require_for_run('cl0', 'eth7')")
    assert unknown == "2 --server-iface: no interface 'eth7' here; there are: cl0, lo, sv0"
    same = refusal(router, "features.require_for_run('cl0', 'cl0')")
    assert same.startswith("2 --server-iface: 'cl0' is the client's interface too")
    unprivileged = refusal(
        router, "features.require_for_run('cl0', 'sv0')",
        "setpriv", "--bounding-set=-all", "--inh-caps=-all",
    )  # fmt: skip
    assert unprivileged.startswith("3 CAP_NET_ADMIN: not in force")
    assert "run as root" in unprivileged


def test_run_is_refused_a_queue_that_is_in_use(chain: Chain) -> None:
    taken = """
        from netfilterqueue import NetfilterQueue
        queue = NetfilterQueue()
        queue.bind(4, lambda packet: packet.accept())
        print("ready", flush=True)
        queue.run()
    """
    holder = chain.router.start(sys.executable, "-c", textwrap.dedent(taken))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        message = refusal(chain.router, "features.require_for_run('cl0', 'sv0', queue=4)")
        assert message.startswith("2 --queue: 4 is in use in this namespace by process ")
        # That may change, so it is asked for often: before anything that takes long.
        asked = "features.require_for_run('cl0', 'sv0', queue=4)"
        assert refusal(chain.router, asked, "setpriv", "--bounding-set=-all") == message
        # A user who may not read who has it sees at least that somebody has.
        both = "+net_admin,+net_raw"
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                  f"--inh-caps={both}", f"--ambient-caps={both}")  # fmt: skip
        message = refusal(chain.router, asked, *nobody)
        assert message.startswith("2 --queue: 4 is in use in this namespace by another process")
        free = refusal(chain.router, "features.require_for_run('cl0', 'sv0')", *nobody)
        assert "queue" not in free
        assert refusal(chain.router, "features.require_for_run('cl0', 'sv0')") == "no objection"
    finally:
        holder.kill()
        holder.communicate()


def test_run_says_what_it_could_not_look_at(chain: Chain, tmp_path: Path) -> None:
    chain.router.run(
        "iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-p", "udp", "-j", "ACCEPT"
    )
    code = """
        for one in features.warnings_for_run("cl0", "sv0"):
            print(one.name, one.ok, one.detail, one.remedy, sep="; ")
    """
    lock = tmp_path / "lock"
    locked_by = ("env", f"XTABLES_LOCKFILE={lock}")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = chain.router.python(code, *locked_by)
    unknown = [line for line in said.stdout.splitlines() if "; None; " in line]
    assert len(unknown) == 1, said.stdout + said.stderr
    assert unknown[0].startswith("no NAT in the way; None; cannot be looked at: iptables-legacy ")
    assert "(nor can firewall passes untracked" in unknown[0]
    assert "see which program keeps the lock of iptables" in unknown[0]
    assert "; None; " not in chain.router.python(code, *locked_by).stdout
