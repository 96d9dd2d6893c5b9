"""The declarations of iptables_rules/ and the parser that reads them; no root needed."""

from __future__ import annotations

import pytest

import iptables_rules
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.kernel import declarations
from nfq_zerortt.kernel.declarations import Extension, Option, Rule
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.ports import PortSet


def one_rule(rule: str, table: str = "raw") -> Rule:
    text = f"*{table}\n:ZERORTT-0 - [0:0]\n{rule}\nCOMMIT\n"
    return declarations.parse(text)[0].rules[0]


def lines(rules: RuleSet, *wanted: str) -> list[str]:
    """The lines that have all of these words."""
    return [line for line in rules.text().splitlines() if set(wanted) <= set(line.split())]


def test_clientnic_takes_tcp_in_both_directions_and_does_not_track_it() -> None:
    rules = RuleSet.for_clientnic("eth0", "eth1", PortSet.parse("all"), queue=3)
    assert lines(rules, "tcp") == [
        "-A ZERORTT-3-IN -i eth0 -p tcp -m addrtype ! --dst-type LOCAL -j CT --notrack",
        "-A ZERORTT-3-IN -i eth1 -p tcp -m addrtype ! --dst-type LOCAL -j CT --notrack",
        "-A ZERORTT-3-OUT -o eth0 -p tcp -m addrtype ! --src-type LOCAL -j CT --notrack",
        "-A ZERORTT-3-OUT -o eth1 -p tcp -m addrtype ! --src-type LOCAL -j CT --notrack",
        "-A ZERORTT-3 -i eth0 -o eth1 -p tcp -j NFQUEUE --queue-num 3 --queue-bypass",
        "-A ZERORTT-3 -i eth1 -o eth0 -p tcp -j NFQUEUE --queue-num 3 --queue-bypass",
    ]


def test_clientnic_takes_icmp_errors_and_never_echo() -> None:
    rules = RuleSet.for_clientnic("eth0", "eth1", PortSet.parse("all"), queue=3)
    errors = ("destination-unreachable", "time-exceeded", "parameter-problem")
    for target in ("CT", "NFQUEUE"):
        taken = [line.split()[7:9] for line in lines(rules, "ZERORTT-3-ERRORS", "-4", target)]
        assert taken == [["--icmp-type", name] for name in errors]
        taken = [line.split()[7:9] for line in lines(rules, "ZERORTT-3-ERRORS", "-6", target)]
        names = (errors[0], "packet-too-big", *errors[1:])
        assert taken == [["--icmpv6-type", name] for name in names]
    assert "echo" not in rules.text()


@pytest.mark.parametrize(
    ("ports", "values"),
    [
        ("all", ["0:65535"]),
        ("80,443,8000-8999", ["80,443,8000:8999"]),
        (
            ",".join(str(port) for port in range(10, 34, 2)),
            ["10,12,14,16,18,20,22,24,26,28", "30,32"],
        ),
    ],
)
def test_quoted_ports_are_what_u32_holds(ports: str, values: list[str]) -> None:
    rules = RuleSet.for_clientnic("c", "s", PortSet.parse(ports))
    quoted = [line.split()[-3].rpartition("=")[2] for line in lines(rules, "u32", "addrtype")]
    assert quoted == values * 4


def test_ports_are_the_destination_towards_the_server_and_the_source_from_it() -> None:
    raw, mangle = RuleSet.for_clientnic("c", "s", PortSet.parse("80,8000-8999")).tables
    seen = 0
    for table in (raw, mangle):
        for rule in table.rules:
            if rule.protocol != "tcp":
                continue
            option = rule.matches[0].options[0]
            to_server = rule.in_interface == "c" or (
                rule.in_interface is None and rule.out_interface == "s"
            )
            assert option == Option("--dports" if to_server else "--sports", "80,8000:8999")
            seen += 1
    assert seen == 6


def test_more_than_fifteen_ports_are_split_over_several_rules() -> None:
    ports = PortSet.parse(",".join(str(port) for port in range(10, 50, 2)))
    mangle = RuleSet.for_clientnic("c", "s", ports).tables[1]
    assert len([rule for rule in mangle.rules if rule.protocol == "tcp"]) == 4


def test_each_family_has_its_own_lines_and_those_of_both() -> None:
    raw = RuleSet.for_clientnic("c", "s", PortSet()).tables[0]
    four, six = raw.of("ipv4"), raw.of("ipv6")
    assert {rule.family for rule in four.rules} == {None, "ipv4"}
    assert {rule.family for rule in six.rules} == {None, "ipv6"}
    assert set(four.rules) | set(six.rules) == set(raw.rules) == set(raw.of("ipv4", "ipv6").rules)
    assert four.chains == six.chains == raw.chains


def test_the_text_has_the_lines_of_its_families_only() -> None:
    text = RuleSet.for_clientnic("c", "s", PortSet(), families=("ipv4",)).text()
    assert " -4 " in text
    assert " -6 " not in text


def test_what_is_read_is_written_again() -> None:
    text = RuleSet.for_clientnic("c", "s", PortSet.parse("80,443")).text()
    assert "\n".join(map(str, declarations.parse(text))) + "\n" == text


def test_servernic_declares_no_rules() -> None:
    assert declarations.parse(iptables_rules.read(iptables_rules.SERVERNIC)) == ()


def test_an_inverted_option_is_understood() -> None:
    rule = one_rule("-A ZERORTT-0 -i eth0 -m addrtype ! --dst-type LOCAL -j CT --notrack")
    assert rule.matches == (Extension("addrtype", (Option("--dst-type", "LOCAL", inverted=True),)),)
    assert rule.target == Extension("CT", (Option("--notrack"),))


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("-A ZERORTT-0 -x eth0 -j CT --notrack", "'-x' is not understood"),
        ("-A ZERORTT-0 -i eth0 -j CT --zone 1", "no option '--zone'"),
        ("-A ZERORTT-0 -j CT", "needs one of --notrack"),
        ("-A ZERORTT-0 -j DROP", "target 'DROP' is unknown"),
        ("-A ZERORTT-0 -j ZERORTT-1", "target 'ZERORTT-1' is unknown"),
        ("-A ZERORTT-0 -m state --state NEW -j CT --notrack", "match 'state' is unknown"),
        ("-A ZERORTT-0 -m multiport --dports 80 -j CT --notrack", "multiport needs -p tcp"),
        ("-A ZERORTT-0 -4 -p icmp -m multiport --dports 80 -j CT --notrack", "needs -p tcp"),
        ("-A ZERORTT-0 -p icmp -j CT --notrack", "-p icmp needs -4"),
        ("-A ZERORTT-0 -6 -p icmp -j CT --notrack", "-p icmp needs -4"),
        ("-A ZERORTT-0 -p icmpv6 -j CT --notrack", "-p icmpv6 needs -6"),
        ("-A ZERORTT-0 -4 -p icmpv6 -j CT --notrack", "-p icmpv6 needs -6"),
        ("-A ZERORTT-0 -4 -6 -j CT --notrack", "for -4 or for -6"),
        ("-A ZERORTT-0 -4 -4 -j CT --notrack", "for -4 or for -6"),
        ("-A ZERORTT-0 -4 -m icmp --icmp-type time-exceeded -j CT --notrack", "needs -p icmp"),
        ("-A ZERORTT-0 -6 -p icmpv6 -m icmp --icmp-type time-exceeded -j CT --notrack",
         "icmp needs -p icmp"),
        ("-A ZERORTT-0 -4 -p icmp -m icmp6 --icmpv6-type packet-too-big -j CT --notrack",
         "icmp6 needs -p icmpv6"),
        ("-A ZERORTT-0 -4 -p icmp -m icmp --icmp-type packet-too-big -j CT --notrack",
         "not a valid value"),
        ("-A ZERORTT-0 -4 -p icmp -m icmp --icmp-type echo-request -j CT --notrack",
         "not a valid value"),
        ("-A ZERORTT-0 -4 -p icmp -m icmp ! --icmp-type any -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -p tcp -m u32 --u32 0=1 -j CT --notrack", "u32 needs -4 or -6"),
        ("-A ZERORTT-0 -4 -m u32 --u32 0=1&& -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -4 -m u32 --u32 0+1=1 -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -4 -m u32 --u32 0=4294967296 -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -4 -m u32 --u32 0=1,2,3,4,5,6,7,8,9,10,11 -j CT --notrack",
         "not a valid value"),
        ("-A ZERORTT-0 -4 -m u32 --u32 0=1" + "&&0=1" * 10 + " -j CT --notrack",
         "not a valid value"),
        ("-A ZERORTT-0 -j RETURN --notrack", "'--notrack'"),
        ("-A ZERORTT-0 -p tcp -m multiport --dports 80,x -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -p tcp -m multiport --dports -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -p udp -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -i eth+ -j CT --notrack", "not a valid value"),
        ("-A ZERORTT-0 -i a -i b -j CT --notrack", "stands twice"),
        ("-A ZERORTT-0 -j CT --notrack --notrack", "stands twice"),
        ("-A ZERORTT-0 -j CT ! --notrack", "cannot be inverted"),
        ("-A ZERORTT-0 ! -i eth0 -j CT --notrack", "'!' is not understood"),
        ("-A ZERORTT-0 -i", "the line ends"),
        ("-A ZERORTT-0 -i eth0", "no target"),
        ("-A ZERORTT-0 -j NFQUEUE --queue-num many", "not a valid value"),
        ("-A PREROUTING -j CT --notrack", "only a bare jump"),
        ("-A PREROUTING -i eth0 -j ZERORTT-0", "only a bare jump"),
        ("-A INPUT -j ZERORTT-0", "neither declared nor built into raw"),
        ("-D PREROUTING -j ZERORTT-0", "begins with -A or -I"),
        ("-A ZERORTT-0 -j CT --notrack extra", "'extra' is not understood"),
        ("-A ZERORTT-0 -i 'eth0 -j CT", "No closing quotation"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error_with_its_line(rule: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match="line 3") as refused:
        one_rule(rule)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-A ZERORTT-0 -j CT --notrack", "outside of a table"),
        ("*nat\nCOMMIT", "table 'nat' is unknown"),
        ("*raw\n", "ends without COMMIT"),
        ("*raw\n*mangle\nCOMMIT", "ends without COMMIT"),
        ("*raw\nCOMMIT\n*raw\nCOMMIT", "declared twice"),
        ("*raw\n:OTHERS - [0:0]\nCOMMIT", "a chain of ours is named ZERORTT-"),
        ("*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT", "a chain is declared as"),
        ("*raw\n:ZERORTT-0 - [0:0]\n:ZERORTT-0 - [0:0]\nCOMMIT", "declared twice"),
    ],
)
def test_a_wrong_frame_is_an_error(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        declarations.parse(text)
    assert complaint in str(refused.value)


def test_an_unknown_placeholder_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown placeholder \{iface\}.*allowed: queue"):
        declarations.fill_in("-A ZERORTT-{queue} -i {iface}", {"queue": "0"}, {})


def test_a_comment_may_explain_placeholders() -> None:
    assert declarations.fill_in("# {anything}\n", {}, {}) == "# {anything}\n"


@pytest.mark.parametrize("queue", [-1, 65536])
def test_a_queue_number_that_cannot_be_is_refused(queue: int) -> None:
    with pytest.raises(ConfigError, match=r"--queue: .* allowed is 0 to 65535"):
        RuleSet.for_clientnic("c", "s", PortSet(), queue)


@pytest.mark.parametrize(
    "name", ["", "sixteen-letters-", "eth 0", "a/b", "eth+", "!eth0", "a\n-j x"]
)
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--client-iface"):
        RuleSet.for_clientnic(name, "s", PortSet())
    with pytest.raises(ConfigError, match="--server-iface"):
        RuleSet.for_clientnic("c", name, PortSet())
