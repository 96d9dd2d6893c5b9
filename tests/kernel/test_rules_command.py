"""The command `nfq-zerortt rules`."""

from __future__ import annotations

import pytest
from support.chain import Chain, cli


def test_the_command_shows_applies_and_removes(chain: Chain) -> None:
    router = chain.router

    def saved() -> list[str]:
        return [router.saved(family) for family in ("", "6")]

    for table in ("raw", "mangle"):  # once looked at they exist, and stay in what is saved
        router.run("iptables-legacy", "-t", table, "-S")
        router.run("ip6tables-legacy", "-t", table, "-S")
    before = saved()
    selection = ("--client-iface", "cl0", "--server-iface", "sv0", "--ports", "80,443")
    status, output, _ = cli(router, "rules", "show", *selection)
    assert (status, output.splitlines()[0]) == (0, "# applied: no, or not like this:")
    assert cli(router, "rules", "apply", *selection) == (0, "", "")
    assert all("ZERORTT-0-ERRORS" in text for text in saved())
    status, output, _ = cli(router, "rules", "show", *selection)
    assert (status, output.splitlines()[0]) == (0, "# applied: yes")
    for words in ("-4 -p icmp -m icmp --icmp-type", "-6 -p icmpv6 -m icmp6 --icmpv6-type"):
        assert words in output
    if "nf_tables" in router.run("iptables", "--version"):
        assert "iptables-legacy -t mangle -S" in output
        assert "ip6tables-legacy -t mangle -S" in output
    router.run("ip6tables-legacy", "-t", "mangle", "-F", "ZERORTT-0-ERRORS")
    _, output, _ = cli(router, "rules", "show", *selection)
    assert "ipv6 table mangle: missing: -A ZERORTT-0-ERRORS -6 -p icmpv6" in output
    assert cli(router, "rules", "remove", "--queue", "1") == (0, "", "")
    assert all("ZERORTT-0" in text for text in saved())
    assert cli(router, "rules", "remove") == (0, "", "")
    assert saved() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--client-iface", "nope", "--server-iface", "sv0"),
            "--client-iface: no interface 'nope'",
        ),
        (("--client-iface", "cl0", "--server-iface", "cl0"), "--server-iface: 'cl0'"),
        (("--client-iface", "cl0"), "Missing option '--server-iface'"),
        (("--client-iface", "cl0", "--server-iface", "sv0", "--ports", "x"), "--ports: 'x'"),
        (("--client-iface", "cl0", "--server-iface", "sv0", "--queue", "70000"), "--queue"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_status_2(
    chain: Chain, argv: tuple[str, ...], message: str
) -> None:
    before = chain.router.saved()
    status, output, errors = cli(chain.router, "rules", "apply", *argv)
    assert (status, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert chain.router.saved() == before
