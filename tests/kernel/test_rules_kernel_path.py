"""``nfq-zerortt rules`` and the kernel data path that an ended process has left behind.

bpftool and tc are the independent readers of what is in the kernel.
"""

from __future__ import annotations

import json
import subprocess
import sys

from support.chain import Chain, Namespace, cli, namespaces
from support.waiting import until

LEAVE = """
    from nfq_zerortt.kernel.bpf import layout
    from nfq_zerortt.kernel.kernel_path import KernelPath
    path = KernelPath.open("cl0", "sv0", 0, 100)
    for port, flags in ((1, 0), (2, layout.FIN_CLIENT), (3, layout.RST_SERVER)):
        value = layout.pack(
            layout.DirectionEntry(*[0] * 15),
            layout.DirectionEntry(*[0] * 15),
            layout.FlowEntry(*[0] * 17)._replace(flags=flags),
        )
        assert path.insert(layout.key(bytes((10, 99, 1, 2, 10, 99, 2, 2, 0, port, 0, 80))), value)
    path.close(leave=True)
"""
SELECTION = ("--client-iface", "cl0", "--server-iface", "sv0")


def filters(router: Namespace, interface: str) -> list[str]:
    """The kinds of the filters at the ingress, ours by their names."""
    listed = json.loads(router.run("tc", "-j", "filter", "show", "dev", interface, "ingress"))
    named = [one for one in listed if "options" in one]
    return [one["options"].get("bpf_name", one["kind"]) for one in named]


def in_the_kernel() -> set[tuple[str, int]]:
    """All programs and maps of the machine; a number is not given again soon."""
    found = set()
    for kind in ("prog", "map"):
        done = subprocess.run(("bpftool", "-j", kind, "show"), capture_output=True, check=True)
        found |= {(kind, one["id"]) for one in json.loads(done.stdout)}
    return found


def ours(router: Namespace) -> set[tuple[str, int]]:
    """Programs at the ingress of the router's interfaces, and their maps."""
    found: set[tuple[str, int]] = set()
    for interface in ("cl0", "sv0"):
        listed = json.loads(router.run("tc", "-j", "filter", "show", "dev", interface, "ingress"))
        for number in (one["options"]["prog"]["id"] for one in listed if "options" in one):
            asked = ("bpftool", "-j", "prog", "show", "id", str(number))
            done = subprocess.run(asked, capture_output=True, check=True)
            found.add(("prog", number))
            found |= {("map", each) for each in json.loads(done.stdout)["map_ids"]}
    return found


def test_show_tells_what_is_attached_and_carried(chain: Chain) -> None:
    router = chain.router
    _, output, _ = cli(router, "rules", "show", *SELECTION)
    assert "# kernel data path: not attached\n" in output
    router.do(LEAVE)
    _, output, _ = cli(router, "rules", "show", *SELECTION)
    # Of the three one has ended; a FIN alone ends nothing.
    attached = "# kernel data path: attached to cl0 and sv0, established connections: 2\n"
    assert attached in output
    _, output, _ = cli(router, "rules", "show", *SELECTION, "--queue", "1")
    assert "# kernel data path: not attached\n" in output


def test_remove_leaves_nothing_and_says_what_it_cut(chain: Chain) -> None:
    router = chain.router
    router.do(LEAVE)
    made = ours(router)
    assert len(made) == 5
    assert cli(router, "rules", "remove", "--queue", "1") == (0, "", "")
    status, output, errors = cli(router, "rules", "remove")
    assert status == 0
    assert "filter zerortt_client on cl0" in output
    assert "filter zerortt_server on sv0" in output
    assert errors == "warning: established connections that this has cut: 2\n"
    until(lambda: not made & in_the_kernel(), "the kernel to let go of programs and maps")
    for interface in ("cl0", "sv0"):
        assert "clsact" not in router.run("tc", "qdisc", "show", "dev", interface)
    assert cli(router, "rules", "remove") == (0, "", "")


def test_remove_leaves_the_filters_of_others(chain: Chain) -> None:
    router = chain.router
    router.run("tc", "qdisc", "add", "dev", "cl0", "clsact")
    router.run("tc", "filter", "add", "dev", "cl0", "ingress", "pref", "7", "protocol", "ip",
               "u32", "match", "ip", "protocol", "6", "0xff")  # fmt: skip
    before = filters(router, "cl0")
    router.do(LEAVE)
    assert "zerortt_client" in filters(router, "cl0")
    assert cli(router, "rules", "remove")[0] == 0
    assert filters(router, "cl0") == before
    assert "clsact" in router.run("tc", "qdisc", "show", "dev", "cl0")
    assert "clsact" not in router.run("tc", "qdisc", "show", "dev", "sv0")


def test_remove_warns_of_a_service_that_runs(chain: Chain) -> None:
    bound = (
        "from netfilterqueue import NetfilterQueue\n"
        "queue = NetfilterQueue()\n"
        "queue.bind(0, lambda packet: packet.accept())\n"
        "print('ready', flush=True)\n"
        "queue.run()\n"
    )
    service = chain.router.start(sys.executable, "-c", bound)
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        status, _, errors = cli(chain.router, "rules", "remove")
        assert status == 0
        assert errors.startswith("warning: queue 0 is in use (netlink port ")
        assert "stop or restart it" in errors
    finally:
        service.kill()
        service.communicate()


def test_remove_without_privileges_is_one_line(chain: Chain) -> None:
    chain.router.do(LEAVE)
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    status, _, errors = cli(chain.router, "rules", "remove", prefix=drop)
    assert status == 3
    assert errors.count("\n") == 1
    assert "zerortt_client" in filters(chain.router, "cl0")


def test_nothing_stays_when_the_namespace_goes() -> None:
    with namespaces(3) as (client, router, server):
        chain = Chain(client, router, server)
        chain.router.do(LEAVE)
        made = ours(chain.router)
        assert made <= in_the_kernel()
    # A namespace is taken apart after its deletion was answered.
    until(lambda: not made & in_the_kernel(), "its programs and maps are gone")
