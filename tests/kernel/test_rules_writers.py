"""The rules beside other programs that write rules, and without privileges."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.chain import PRELUDE, Namespace


def test_what_others_add_between_our_operations_is_not_lost(host: Namespace) -> None:
    host.do(
        """
        import subprocess
        def foreign(name):
            for table, hook in (("raw", "PREROUTING"), ("mangle", "FORWARD")):
                subprocess.run(["iptables-legacy", "-w", "-t", table, "-I", hook, "-i", name,
                                "-j", "ACCEPT"], check=True)
        r = rules()
        r.apply()
        foreign("one")
        assert not r.missing()
        foreign("two")
        rules("other0", "other1").apply()
        foreign("three")
        r.remove()
        """
    )
    for name in ("one", "two", "three"):
        assert host.saved().count(f"-i {name} -j ACCEPT") == 2
    assert "ZERORTT" not in host.saved()


def test_nothing_is_lost_while_another_writes_all_the_time(host: Namespace) -> None:
    writer = host.start(
        "sh", "-c",
        "for i in $(seq 150); do iptables-legacy -w -t mangle -A FORWARD -i w$i -j ACCEPT; done",
    )  # fmt: skip
    host.do("for _ in range(25): rules().apply(); assert not rules().missing(); rules().remove()")
    output, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0, output
    assert len(re.findall(r"-A FORWARD -i w\d+ -j ACCEPT", host.saved())) == 150
    assert "ZERORTT" not in host.saved()


def test_the_lock_of_iptables_is_waited_for_and_named(host: Namespace, tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = host.python(
            f"""
            os.environ["XTABLES_LOCKFILE"] = {str(lock)!r}
            with xtables.lock(timeout_s=0.3): pass
            """
        )
    assert done.returncode == 1
    assert f"another program has held the lock {lock} for 0.3 s" in done.stderr


def test_rules_are_written_only_under_the_lock(host: Namespace, tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    code = f"""
        os.environ["XTABLES_LOCKFILE"] = {str(lock)!r}
        print("begins", flush=True)
        rules().apply()
    """
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = host.start(sys.executable, "-c", PRELUDE + textwrap.dedent(code))
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begins\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(timeout=1)
            assert "ZERORTT" not in host.saved()
            fcntl.flock(held, fcntl.LOCK_UN)
            assert writer.wait(timeout=10) == 0
        finally:
            writer.kill()
            writer.communicate()
    assert "ZERORTT" in host.saved()


def test_without_privileges_it_says_so(host: Namespace) -> None:
    for code in ("rules().apply()", "rules().remove()", "rules().missing()"):
        done = host.python(
            f"""
            try: {code}
            except ZeroRttError as error: print(error.exit_status, error)
            """,
            "setpriv", "--bounding-set=-all", "--inh-caps=-all",
        )  # fmt: skip
        assert done.stdout.startswith("3 CAP_NET_ADMIN and CAP_NET_RAW are missing"), done.stderr


def test_a_kernel_without_the_table_is_named_and_nothing_is_left_half_done(
    host: Namespace,
) -> None:
    before = host.saved()
    done = host.python(
        """
        from nfq_zerortt.kernel.declarations import Table
        r = RuleSet((rules().tables[0], Table("nosuch", (), ())))
        try: r.apply()
        except ZeroRttError as error: print(error.exit_status, error)
        """
    )
    assert done.stdout.startswith("3 the kernel offers no legacy iptables table nosuch"), (
        done.stderr
    )
    assert "modprobe iptable_nosuch" in done.stdout
    assert host.saved() == before
