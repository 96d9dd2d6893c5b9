"""The kernel data path where it cannot be: what failed is named, and nothing is left."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from support.namespaces import inside
from support.opened import FLOWS, QUEUE, close, finished, opened, remove_all
from support.pair import Pair

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import filters, libbpf
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath


def test_a_missing_interface(pair: Pair) -> None:
    before = pair.state()
    with inside(pair.name), pytest.raises(ZeroRttError, match="interface s9"):
        KernelPath.open("c0", "s9", QUEUE, FLOWS)
    assert pair.state() == before


def test_an_interface_without_ethernet(pair: Pair) -> None:
    pair.sh("ip tuntap add t0 mode tun")
    before = pair.state()
    with inside(pair.name), pytest.raises(MissingFeatureError, match="t0 has no Ethernet header"):
        KernelPath.open("c0", "t0", QUEUE, FLOWS)
    assert pair.state() == before


def test_a_program_that_the_kernel_does_not_take(pair: Pair) -> None:
    before = pair.state()
    with open("/dev/null", "rb") as no_program, inside(pair.name):
        wanted = [(PROGRAMS[0], no_program.fileno(), "c0")]
        with pytest.raises(ZeroRttError, match=r"^interface c0: "):
            filters.attach(QUEUE, wanted)
    assert pair.state() == before


def test_a_failure_puts_the_earlier_program_back(pair: Pair) -> None:
    first = opened(pair)
    at_c0 = pair.state("c0")
    pair.sh(
        f"tc filter del dev s0 ingress pref {filters.PRIORITY};"
        f"tc filter add dev s0 ingress protocol ip pref {filters.PRIORITY} "
        "u32 match u32 0 0 classid 1:1"
    )
    at_s0 = pair.state("s0")
    with pytest.raises(ZeroRttError, match="somebody else"):
        opened(pair)
    assert (pair.state("c0"), pair.state("s0")) == (at_c0, at_s0)
    close(pair, first, leave=False)


@pytest.mark.parametrize(
    ("privileges", "missing"),
    [
        ("-all", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON is missing"),
        ("-all,+bpf,+net_admin", "CAP_PERFMON is missing"),
        ("-all,+bpf,+perfmon", "CAP_NET_ADMIN is missing"),
    ],
)
def test_missing_privileges(pair: Pair, privileges: str, missing: str) -> None:
    before = pair.state()
    script = """
from nfq_zerortt.errors import MissingFeatureError
from nfq_zerortt.kernel.kernel_path import KernelPath
try:
    KernelPath.open("c0", "s0", 7, 64)
except MissingFeatureError as error:
    print(error)
assert KernelPath.remove_all(7) == []
"""
    said, errors = finished(pair.python(script, as_nobody=privileges))
    assert said.startswith(missing)
    assert said.count("\n") == 1
    assert errors == ""
    assert pair.state() == before


def test_the_verifiers_refusal_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = (resources.files("nfq_zerortt.kernel") / "bpf" / "zerortt.bpf.o").read_bytes()
    exit_instruction = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
    broken = code.replace(exit_instruction, bytes([0xFF]) + bytes(7))
    with pytest.raises(MissingFeatureError, match="does not take the eBPF programs") as refused:
        KernelPath.load(FLOWS, broken)
    assert re.search(r"\(.*(insn|opcode).*\): a newer kernel", str(refused.value))
    assert "\n" not in str(refused.value)
    with pytest.raises(MissingFeatureError, match="libbpf cannot read"):
        KernelPath.load(FLOWS, b"no object")
    assert capfd.readouterr() == ("", "")


def test_without_libbpf(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.99")
    libbpf.library.cache_clear()
    try:
        with pytest.raises(MissingFeatureError, match=r"libbpf is missing.*install libbpf1"):
            opened(pair)
        assert remove_all(pair) == []
    finally:
        libbpf.library.cache_clear()
