"""What was learned, as records: shown, kept, and taken up by another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfq_zerortt.config import Limits
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import (
    OPTION_NAMES,
    by_server,
    counts,
    fingerprint,
    records,
    restore,
)
from tests.scenarios.script import SECRET, Numbers, Run, scripts

COOKIES = "72_fast_open_with_a_cookie"
REFUSED = "56_refused_lately"
NUMBERS = Numbers(c=1_000_000, r=3_000_000_000)
ELAPSED = 100.0
LATER = 7.0
"""The clock of another run, which has begun anew."""


def script(name: str) -> Path:
    (found,) = (path for path in scripts() if path.stem == name)
    return found


def played(name: str) -> Run:
    run = Run(NUMBERS)
    run.play(script(name).read_text(encoding="utf-8"))
    assert run.engine is not None
    return run


def memory_of(run: Run) -> Memory:
    assert run.engine is not None
    return run.engine.memory


def through_json(memory: Memory, now: float) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(json.dumps(list(records(memory, now))))
    return read


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_what_any_script_teaches_survives(path: Path) -> None:
    run = Run(NUMBERS)
    run.play(path.read_text(encoding="utf-8"))
    memory, again = memory_of(run), Memory()
    kept = through_json(memory, run.now)
    restore(again, kept, 0.0, LATER)
    assert through_json(again, LATER) == kept


def test_the_scripts_teach_something_of_every_kind() -> None:
    about = {record["about"] for name in (COOKIES, REFUSED) for record in _kept(name)}
    assert about == {"server", "fast_open", "cookie", "refusal"}
    denied = {
        name
        for path in scripts()
        for record in _kept(path.stem)
        for name in record.get("denied", ())
    }
    assert denied == set(OPTION_NAMES.values())


def _kept(name: str) -> list[dict[str, Any]]:
    run = Run(NUMBERS)
    run.play(script(name).read_text(encoding="utf-8"))
    return through_json(memory_of(run), run.now)


def test_another_run_uses_the_cookie_at_once() -> None:
    first = played(COOKIES)
    kept = through_json(memory_of(first), first.now)
    second = Run(NUMBERS, strategy="fastopen")
    second.engine = Engine("fastopen", Limits(), SECRET)
    restore(second.engine.memory, kept, ELAPSED, second.now)
    went = second.play(
        ">> 0 client:5000 SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n"
        ">> 0.001 client:5000 PSH,ACK C+1 ack S+1 len 200 win 502 <nop nop ts TC+1/TS>\n"
    )
    cookies = {record["cookie"] for record in kept if record["about"] == "cookie"}
    assert any(f"cookie {cookie}" in went for cookie in cookies)
    assert "len 200 win 64240" in went


def test_ages_go_on_while_nobody_runs() -> None:
    run = played(COOKIES)
    kept = through_json(memory_of(run), run.now)
    again = Memory()
    restore(again, kept, ELAPSED, LATER)
    before = {_key(record): record["age_s"] for record in kept}
    after = {_key(record): record["age_s"] for record in records(again, LATER)}
    assert after == {key: pytest.approx(age + ELAPSED) for key, age in before.items()}


def _key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["about"], record["server"], record.get("client", "")


def test_a_server_is_left_alone_for_no_longer_than_it_was_to_be() -> None:
    run = Run(NUMBERS)
    run.play(
        ">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n"
        ">> 0.1 server RST,ACK 0 ack C+1 win 0\n"
    )
    kept = through_json(memory_of(run), run.now + 10)
    server = bytes((10, 0, 3, 2, 0, 80))
    for elapsed, reason in ((0.0, "refused_lately"), (49.0, "refused_lately"), (51.0, None)):
        again = Memory()
        restore(again, kept, elapsed, LATER)
        assert again.refusals.reason(server, LATER) == reason


def test_what_is_too_old_is_not_told() -> None:
    run = played(COOKIES)
    memory = memory_of(run)
    told = {record["about"] for record in records(memory, run.now + 3700)}
    assert told == {"fast_open", "cookie"}
    assert {record["about"] for record in records(memory, run.now + 8 * 86_400)} == {"fast_open"}


def test_the_fingerprint_tells_of_every_change() -> None:
    """After each packet of every script: the same records mean the same fingerprint."""
    for path in scripts():
        run, known, seen = Run(NUMBERS), None, None
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("<<"):
                continue
            run.play(line)
            if run.engine is None:
                continue
            memory = run.engine.memory
            # At one time, whatever it is: ages shall not count as changes.
            now_known = [{**record} for record in records(memory, 1000.0)]
            mark = fingerprint(memory)
            if now_known != known:
                assert mark != seen, f"{path.stem}: {line}"
            known, seen = now_known, mark


def test_clearing_forgets_all() -> None:
    for name in (COOKIES, REFUSED):
        memory = memory_of(played(name))
        assert any(counts(memory).values())
        memory.clear()
        assert not any(counts(memory).values())
        assert list(records(memory, 2000.0)) == []


def test_a_change_while_it_is_told_does_no_harm() -> None:
    """All is forgotten after each record: of the same kind and of others, more were to come."""
    for heard in range(1, 4 * len(GOOD)):
        memory = Memory()
        for number in range(4):
            for record in GOOD.values():
                name = {"server": f"10.0.{number}.1:80"}
                restore(memory, [{**record, **name}], 0.0, LATER)
        told = records(memory, LATER)
        for _ in range(heard):
            next(told)
        memory.clear()
        assert list(told) == []


GOOD: dict[str, dict[str, Any]] = {
    "server": {"about": "server", "server": "10.0.3.2:80", "mss": 1460, "window": 65535,
               "window_scale": 7, "denied": {"timestamps": 1.0}, "rtt_ms": 100.0, "age_s": 3},
    "fast_open": {"about": "fast_open", "server": "[fd00::1]:443", "gap_ms": None,
                  "late_for_s": 0.0, "asked": False, "accepts": True, "refusals": 0,
                  "troubles": 0, "not_for_s": 0.0, "age_s": 1.5},
    "cookie": {"about": "cookie", "server": "10.0.3.2:80", "client": "10.0.1.2",
               "cookie": "1111222233334444", "age_s": 1},
    "refusal": {"about": "refusal", "server": "10.0.3.2:81", "reason": "refused_lately",
                "wait_s": 60, "for_s": 9.5, "over_for_s": 0.0},
}  # fmt: skip


def test_good_records_are_taken() -> None:
    memory = Memory()
    restore(memory, list(GOOD.values()), 0.0, LATER)
    assert counts(memory) == {"servers": 1, "habits": 1, "cookies": 1, "refusals": 1}


@pytest.mark.parametrize(
    ("about", "key"), [(about, key) for about, record in GOOD.items() for key in record]
)
@pytest.mark.parametrize("value", ["x", -1, float("nan"), float("inf"), None, [], True, 10**400])
def test_a_damaged_record_is_refused_as_a_whole(about: str, key: str, value: object) -> None:
    damaged = {**GOOD[about], key: value}
    allowed = (key in ("window_scale", "gap_ms") and value is None) or (
        (key in ("asked", "accepts") and value is True) or (key == "reason" and value == "x")
    )
    memory = Memory()
    if allowed:
        restore(memory, [damaged], 0.0, LATER)
        return
    with pytest.raises(ValueError, match="record 5: "):
        restore(memory, [*GOOD.values(), damaged], 0.0, LATER)
    assert not any(counts(memory).values())


@pytest.mark.parametrize("record", [None, 3, [], {}, {"about": []}, {"about": "other"}])
def test_what_is_no_record_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match="record 1: "):
        restore(Memory(), [record], 0.0, LATER)


def test_a_missing_key_is_refused() -> None:
    for record in GOOD.values():
        for key in record:
            with pytest.raises(ValueError, match="record 1: "):
                restore(Memory(), [{k: v for k, v in record.items() if k != key}], 0.0, LATER)


def test_more_than_the_memory_holds_is_refused() -> None:
    many = [{**GOOD["refusal"], "server": f"10.0.{n >> 8}.{n & 255}:80"} for n in range(16_385)]
    with pytest.raises(ValueError, match="16385"):
        restore(Memory(), many, 0.0, LATER)
    restore(Memory(), many[1:], 0.0, LATER)


def test_one_object_for_each_server() -> None:
    told = by_server([*GOOD.values(), {**GOOD["refusal"], "server": "9.0.0.1:1", "for_s": 0.0}])
    assert [one["server"] for one in told] == [
        "9.0.0.1:1",
        "10.0.3.2:80",
        "10.0.3.2:81",
        "[fd00::1]:443",
    ]
    over, answering, refusing, silent = told
    assert over["left_alone"] is None
    assert answering["answered"]["mss"] == 1460
    assert answering["cookies"] == [
        {"client": "10.0.1.2", "cookie": "1111222233334444", "age_s": 1}
    ]
    assert answering["speaks_early"] is None
    assert refusing["left_alone"] == {"reason": "refused_lately", "for_s": 9.5}
    assert (silent["speaks_early"], silent["fast_open"]["accepts"]) == (False, True)
    assert {tuple(one) for one in told} == {tuple(told[0])}
