"""Whether a rule for NAT keeps connections from working: what is warned of, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.chain import Chain, namespaces

Warned = Callable[..., str]

SAY = """
from nfq_zerortt.kernel.features.translation import address_translation
found = address_translation("cl0", "sv0", PortSet.parse({ports!r}))
assert found.ok is not None, found
print("" if found.ok else found.detail, end="")
"""
LEGACY = "iptables-legacy -t nat"
NFT = "iptables-nft -t nat"


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    """A router that also has a way to the world, and a virtual network."""
    with namespaces(3) as ends:
        chain = Chain(*ends)
        for name, address in (("wan0", "192.0.2.1/24"), ("virbr0", "192.168.122.1/24")):
            chain.router.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{name}")
            chain.router.run("ip", "addr", "add", address, "dev", name)
            for one in (name, f"p{name}"):
                chain.router.run("ip", "link", "set", one, "up")
        chain.router.run("ip", "route", "add", "default", "via", "192.0.2.2")
        yield chain


@pytest.fixture
def warned(chain: Chain) -> Iterator[Warned]:
    """Set rules, and tell what is said of them."""

    def warned(command: str, ports: str = "all") -> str:
        chain.router.run("sh", "-ec", command)
        return chain.router.do(SAY.format(ports=ports))

    yield warned
    chain.router.run("sh", "-c", "iptables-legacy -t nat -F; iptables-legacy -t nat -X")
    chain.router.run("nft", "flush", "ruleset")


@pytest.mark.parametrize("command", [LEGACY, NFT])
@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("-A POSTROUTING -o sv0 -j MASQUERADE", "MASQUERADE"),
        # It is not on the way to the servers; but the clients' other connections meet it.
        ("-A POSTROUTING -o wan0 -j MASQUERADE", "MASQUERADE"),
        ("-A POSTROUTING -s 10.0.0.0/8 -o wan0 -j SNAT --to 192.0.2.1", "SNAT"),
        ("-A PREROUTING -i cl0 -p tcp --dport 80 -j REDIRECT --to-ports 3128", "REDIRECT"),
    ],
)
def test_warned_of(warned: Warned, command: str, rule: str, target: str) -> None:
    said = warned(f"{command} {rule}")
    assert f"NAT rules ({target})" in said
    assert "comes in by cl0 or sv0" in said


@pytest.mark.parametrize("command", [LEGACY, NFT])
@pytest.mark.parametrize(
    ("rule", "ports"),
    [
        # As of libvirt, and of a program that runs containers.
        ("-A POSTROUTING -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE", "all"),
        ("-A POSTROUTING -p udp -o sv0 -j MASQUERADE", "all"),
        ("-A PREROUTING -i wan0 -p tcp --dport 80 -j DNAT --to 10.99.2.2", "all"),
        ("-A PREROUTING -i cl0 -p tcp --dport 80 -j REDIRECT --to-ports 3128", "443,8000-8999"),
        ("-A OUTPUT -p tcp -j DNAT --to 10.99.2.2", "all"),
    ],
)
def test_not_warned_of(warned: Warned, command: str, rule: str, ports: str) -> None:
    assert warned(f"{command} {rule}", ports) == ""


@pytest.mark.parametrize(
    ("rule", "met"),
    [
        ('oifname "sv0" masquerade', True),
        ('iifname { "cl0", "x0" } tcp dport { 80, 443-500 } dnat to 10.99.2.9', True),
        ('iifname "wan*" dnat to 10.99.2.9', False),
        ('iifname != { "cl0", "sv0" } dnat to 10.99.2.9', False),
        ("ip saddr { 192.168.122.0/24 } masquerade", False),
        ("ip saddr { 192.168.122.0/24, 10.99.1.0/24 } masquerade", True),
        ("meta l4proto udp masquerade", False),
        ("udp dport 53 redirect to :53", False),
        ("tcp dport { 8080, 9000-9100 } redirect to :3128", False),
        # Named sets: what is in them is not looked at.
        ("iifname @lan tcp dport 80 dnat to 10.99.2.9", True),
        ("iifname != @lan tcp dport 80 dnat to 10.99.2.9", True),
        ("meta l4proto @kinds dnat to 10.99.2.9", True),
    ],
)
def test_rules_of_nftables(warned: Warned, rule: str, met: bool) -> None:
    hook = "prerouting" if "dnat" in rule or "redirect" in rule else "postrouting"
    said = warned(
        f"nft 'table ip n {{ set lan {{ type ifname; elements = {{ cl0 }}; }}; "
        "set kinds { type inet_proto; elements = { tcp }; }; "
        f"chain c {{ type nat hook {hook} priority 0; {rule}; }}; }}'",
        "80,443",
    )
    assert bool(said) is met, said


def test_each_network_is_asked_for_once(chain: Chain, warned: Warned) -> None:
    """Hosts of containers have a rule for each of their ports, and few networks."""
    warned("; ".join(
        f"{LEGACY} -A POSTROUTING -s 192.168.122.0/24 -p tcp --dport {port} -j MASQUERADE"
        for port in range(80, 90)
    ))  # fmt: skip
    asked = chain.router.do("""
        from nfq_zerortt.kernel import tools
        from nfq_zerortt.kernel.features.translation import address_translation
        run, asked = tools.run, []
        tools.run = lambda argv: (asked.append(argv[0]), run(argv))[1]
        address_translation("cl0", "sv0")
        print(asked.count("ip"))
    """)
    assert asked == "2\n"


def test_a_table_that_only_seems_to_be_that_of_iptables(warned: Warned) -> None:
    """Its name is, but its chains are not: of these iptables-nft says nothing."""
    chain = "type nat hook prerouting priority -100; iifname cl0 tcp dport 80 dnat to 10.99.2.9;"
    assert "NAT rules (DNAT)" in warned(f"nft 'table ip nat {{ chain prerouting {{ {chain} }}; }}'")


PUBLISHED = """
{command} -N DOCKER
{command} -A PREROUTING {local} -j DOCKER
{command} -A OUTPUT ! -d 127.0.0.0/8 {local} -j DOCKER
{command} -A POSTROUTING -s 192.168.122.0/24 ! -o virbr0 -j MASQUERADE
{command} -A DOCKER -i virbr0 -j RETURN
{command} -A DOCKER ! -i virbr0 -p tcp --dport 8080 -j {target}
"""
PUBLISHED_BY_NFT = """
nft 'table ip n {{
    chain published {{ iifname != "virbr0" tcp dport 8080 {target}; }}
    chain c {{ type nat hook prerouting priority 0; {local} jump published; }}
    chain o {{ type nat hook output priority 0; jump published; }}
}}'
"""


@pytest.mark.parametrize("by_nft", [False, True])
@pytest.mark.parametrize(
    ("host", "local", "met"),
    [
        ("192.168.122.2", True, False),
        ("192.168.122.2", False, True),
        # Its answers come in by cl0, untracked.
        ("10.99.1.2", True, True),
        ("", True, False),
    ],
)
def test_a_published_port(warned: Warned, by_nft: bool, host: str, local: bool, met: bool) -> None:
    """As a program that runs containers sets it: for what is addressed to this router."""
    if by_nft:
        to = f"dnat to {host}:80" if host else "redirect to :3128"
        only = "fib daddr type local" if local else ""
        said = warned(PUBLISHED_BY_NFT.format(local=only, target=to))
        assert bool(said) is met, said
        return
    to = f"DNAT --to-destination {host}:80" if host else "REDIRECT --to-ports 3128"
    only = "-m addrtype --dst-type LOCAL" if local else ""
    for command in (LEGACY, NFT):
        said = warned(PUBLISHED.format(command=command, local=only, target=to))
        assert bool(said) is met, (command, said)


def test_it_is_true_of_a_third_interface(chain: Chain, warned: Warned) -> None:
    """What comes in by cl0 is untracked before anybody knows where it leaves."""
    assert warned(f"{LEGACY} -A POSTROUTING -o wan0 -j MASQUERADE")
    try:
        chain.router.do("rules().apply()")
        chain.fetch("192.0.2.99", 80, 0.2)
        assert "192.0.2.99" not in chain.tracked()
        chain.router.do("rules().remove()")
        chain.fetch("192.0.2.99", 80, 0.2)
        assert "dst=192.0.2.99" in chain.tracked(), "it would be translated"
    finally:
        chain.router.do("rules().remove()")
