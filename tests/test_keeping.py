"""The state file: written and read, damaged in every way, and written while packets have turns."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nfq_zerortt import keeping
from nfq_zerortt.config import load as load_settings
from nfq_zerortt.core.fast_open import COOKIE_KEEP_S
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import Record, records
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.keeping import Keeper, StateFileError

CLIENT = bytes((10, 0, 1, 2))
SERVER = bytes((10, 0, 3, 2, 0, 80))
COOKIE = bytes(range(8))
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def learn(memory: Memory, count: int = 1) -> None:
    for number in range(count):
        client = bytes((10, 1, number >> 8, number & 255)) if number else CLIENT
        memory.fast_open.note_cookie(client, SERVER, COOKIE, time.monotonic())


def cookie(memory: Memory) -> bytes:
    return memory.fast_open.cookie(CLIENT, SERVER, time.monotonic())


def fail(error: str) -> None:
    raise AssertionError(error)


def saved(path: Path, count: int = 1) -> list[str]:
    """Write a good file and return its lines."""
    memory = Memory()
    keeper = Keeper(path, memory)
    learn(memory, count)
    keeper.save(fail)
    return path.read_text(encoding="ascii").splitlines()


def load(path: Path) -> Memory:
    memory = Memory()
    Keeper(path, memory).load()
    return memory


def test_what_was_learned_is_there_again(path: Path) -> None:
    assert cookie(load(path)) == b""
    head, *records = saved(path)
    assert json.loads(head)["records"] == len(records) == 1
    assert cookie(load(path)) == COOKIE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["state"]


def test_time_that_has_passed_counts(path: Path) -> None:
    head, record = saved(path)
    earlier = json.loads(head) | {"written_at": time.time() - COOKIE_KEEP_S + 5}
    for age, expected in ((0.0, COOKIE), (10.0, b"")):
        aged = json.loads(record) | {"age_s": age}
        path.write_text(json.dumps(earlier) + "\n" + json.dumps(aged) + "\n")
        assert cookie(load(path)) == expected


def test_a_clock_that_was_set_back_does_no_harm(path: Path) -> None:
    head, record = saved(path)
    later = json.loads(head) | {"written_at": time.time() + 1e6}
    path.write_text(json.dumps(later) + "\n" + record + "\n")
    assert cookie(load(path)) == COOKIE


@pytest.mark.parametrize("umask", [0, 0o077])
def test_it_is_for_root_only_whatever_was_there(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path.write_text("old")
        path.chmod(0o666)
        path.with_name("state.new").write_text("left by one that was killed")
        saved(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["state"]


def test_nothing_new_is_not_written(path: Path) -> None:
    Keeper(path, Memory()).save(fail)
    assert not path.exists()
    saved(path)
    memory = Memory()
    keeper = Keeper(path, memory)
    keeper.load()
    path.unlink()
    keeper.save(fail)
    assert not path.exists()
    learn(memory, 2)
    keeper.save(fail)
    assert path.exists()


def test_a_damaged_file_is_refused_and_nothing_is_taken(path: Path) -> None:
    saved(path, 20)
    good = path.read_bytes()
    for end in range(len(good) - 1):  # all but the last line feed
        path.write_bytes(good[:end])
        memory = Memory()
        with pytest.raises(StateFileError, match="state is ignored: "):
            Keeper(path, memory).load()
        assert not memory.fast_open.cookies


HEAD = '{"format":1,"written_at":%s,"records":%s}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no state file"),
        ("\n", "no state file"),
        ("[]\n", "no state file"),
        ("\xff\x00\n", "no state file"),
        ('{"format":2,"written_at":0,"records":0}\n', "its format is 2, this program reads 1"),
        (HEAD % (0, 0), "days old"),
        (HEAD % ("null", 0), "no state file"),
        (HEAD % ("1e400", 0), "no state file"),
        (HEAD % (10**400, 0), "no state file"),
        (HEAD % ("NaN", 0), "no state file"),
        (HEAD % ("[" * 100_000, 0), "no state file"),
        (HEAD % (4e9, 1) + "no\n", "ignored"),
        (HEAD % (4e9, 1) + "[" * 100_000 + "\n", "ignored"),
        (HEAD % (4e9, 1) + "{}\n", "record 1"),
        (HEAD % (4e9, 2) + "{}\n", "1 records of 2"),
    ],
)
def test_what_is_no_good_file_is_refused(path: Path, text: str, words: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StateFileError, match=words) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateFileError, match="cannot be read: Is a directory"):
        load(path)


def test_a_huge_file_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StateFileError, match="larger than"):
        load(path)


def test_it_is_told_once_why_it_cannot_be_written(tmp_path: Path) -> None:
    memory, told = Memory(), list[str]()
    keeper = Keeper(tmp_path / "none" / "state", memory)
    learn(memory)
    keeper.save(told.append)
    keeper.save(told.append)
    assert told == [f"{tmp_path}/none/state cannot be written: No such file or directory"]
    (tmp_path / "none").mkdir()
    keeper.save(told.append)
    (tmp_path / "none" / "state").unlink()
    (tmp_path / "none").rmdir()
    learn(memory, 2)
    keeper.save(told.append)
    assert len(told) == 2


def test_it_is_written_again_and_again_between_packets(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, turns = 16_000, 0
    turns_at: list[int] = []

    def watched(memory: Memory, now: float) -> Iterator[Record]:
        for record in records(memory, now):
            turns_at.append(turns)
            yield record

    monkeypatch.setattr(keeping, "EVERY_S", 0.02)
    monkeypatch.setattr(keeping, "records", watched)

    async def run() -> int:
        nonlocal turns
        memory = Memory()
        keeping_on = asyncio.create_task(Keeper(path, memory).keep(fail))
        learn(memory, count)
        while not path.exists():
            turns += 1  # stands for the packets
            await asyncio.sleep(0)
        path.unlink()
        await asyncio.sleep(0.2)
        assert len(turns_at) == count, "nothing is new"
        learn(memory, 1)
        while not path.exists():
            await asyncio.sleep(0.01)
        keeping_on.cancel()
        with suppress(asyncio.CancelledError):
            await keeping_on
        return len(memory.fast_open.cookies)

    cookies = asyncio.run(asyncio.wait_for(run(), 30))
    assert turns_at[count - 1] - turns_at[0] > 50
    assert cookies == len(load(path).fast_open.cookies) == count


@pytest.mark.parametrize("content", ['strategy = "auto"\n', "[]\n", "\0\0"])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no file of this service: name another"):
        Keeper(path, Memory()).require_own()


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.touch()
    link.symlink_to(target)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigError, match="not a regular file"):
            Keeper(path, Memory()).require_own()


def test_an_own_file_an_empty_one_and_none_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "state"
    keeper = Keeper(path, Memory())
    keeper.require_own()
    path.touch()
    keeper.require_own()
    keeper.save(pytest.fail)
    path.write_text('{"format":1,"damaged', encoding="utf-8")
    keeper.require_own()


@pytest.mark.parametrize("ask", ["state_file", "configuration file"])
def test_a_directory_that_may_not_be_entered_is_a_wrong_setting(tmp_path: Path, ask: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    file = closed / "file"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # root may enter any
        said = "nothing"
        try:
            os.setuid(NOBODY)
            if ask == "state_file":
                Keeper(file, Memory()).require_own()
            else:
                load_settings(file)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    assert said.startswith("ConfigError: "), said
    assert ask in said
    assert str(file) in said
