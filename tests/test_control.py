"""The control socket: what is asked and answered, rude clients, and whose path it is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest

from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.observe import control
from nfq_zerortt.observe.control import ControlServer, Request
from nfq_zerortt.observe.control_client import ask, ask_each
from nfq_zerortt.observe.control_path import ControlPath, PathError
from nfq_zerortt.slices import SLICE_S

PATIENCE_S = 10.0
NOBODY = 65534


class Serving:
    """A server in a thread of its own; inside the block it serves at ``path``."""

    def __init__(self, path: Path, **answers: Callable[..., object] | Request) -> None:
        self.path = path
        self.faults = 0
        self.turns = 0
        self._taken = ControlPath.take(path)
        self._requests = {
            name: answer if isinstance(answer, Request) else Request(answer)
            for name, answer in answers.items()
        }
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_S)
        self._taken.close()
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = ControlServer(self._taken.listener, self._requests, self._fault)
        self._task = self._loop.create_task(server.serve())
        self._turn()
        self._ready.set()
        with suppress(asyncio.CancelledError):
            await self._task

    def _fault(self) -> None:
        self.faults += 1

    def _turn(self) -> None:
        """Stands for the packets: counts how often it is their turn."""
        self.turns += 1
        if not self._task.done():
            self._loop.call_later(0, self._turn)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.connect(str(path))
            return client
        except BlockingIOError:  # so many wait already
            assert time.monotonic() < deadline
            time.sleep(0.005)


def say(client: socket.socket, *lines: str | bytes) -> None:
    client.sendall(b"".join(one if isinstance(one, bytes) else one.encode() for one in lines))


def hear(client: socket.socket) -> Any:
    """Return the next line, read as JSON; None at the end."""
    line = b""
    while not line.endswith(b"\n"):
        piece = client.recv(1)
        if not piece:
            assert not line, f"an answer broke off: {line!r}"
            return None
        line += piece
    return json.loads(line)


def add(*, a: int, b: int = 0) -> int:
    return a + b


# --- requests and answers -----------------------------------------------------------------


def test_a_value_and_an_array(path: Path) -> None:
    with Serving(
        path,
        add=Request(add, frozenset({"a", "b"})),
        none=lambda: iter(()),
        one=lambda: iter([{"x": "ü"}]),
        many=lambda: iter(range(50_000)),
    ):
        assert ask(path, "add", a=1, b=2) == 3
        assert ask(path, "none") == []
        assert ask(path, "one") == [{"x": "ü"}]
        assert ask(path, "many") == list(range(50_000))


def test_an_array_comes_element_by_element(path: Path) -> None:
    """However the answer is cut up on its way, elements are given when they are whole."""
    records = [{"text": "ü]},{" * (number % 50), "number": number} for number in range(3000)]
    with Serving(
        path,
        none=lambda: iter(()),
        numbers=lambda: iter(range(50_000)),
        records=lambda: iter(records),
        add=Request(add, frozenset("a")),
        fail=fail,
    ):
        assert list(ask_each(path, "none")) == []
        assert list(ask_each(path, "numbers")) == list(range(50_000))
        assert list(ask_each(path, "records")) == records
        assert list(ask_each(path, "records", tuple)) == [tuple(one.items()) for one in records]
        with pytest.raises(ZeroRttError, match="not today"):
            list(ask_each(path, "fail"))
    with pytest.raises(ZeroRttError, match="no service answers"):
        list(ask_each(path, "none"))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_an_array_that_comes_in_small_pieces(path: Path, size: int) -> None:
    answer = b'{"answer":[12,{"a":[1,2]},"]"]}\n'
    with one_answer(path, [answer[at : at + size] for at in range(0, len(answer), size)]):
        assert list(ask_each(path, "any")) == [12, {"a": [1, 2]}, "]"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "hung up"),
        (b'{"ans', "hung up"),
        (b'{"answer":[1,2', "hung up"),
        (b'{"answer":[1,{"a":', "hung up"),
        (b"220 mail.example.net\n", "no service of this kind"),
    ],
)
def test_an_array_that_breaks_off_is_an_error(path: Path, answer: bytes, words: str) -> None:
    with one_answer(path, [answer]), pytest.raises(ZeroRttError, match=words):
        list(ask_each(path, "any"))


@contextmanager
def one_answer(path: Path, pieces: list[bytes]) -> Iterator[None]:
    """Serve one client: whatever it asks, it gets these pieces, one after the other."""
    taken = ControlPath.take(path)

    def serve() -> None:
        client, _ = taken.listener.accept()
        with client, suppress(BrokenPipeError):  # it has what it wanted
            client.recv(1000)
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.001)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE_S)
        taken.close()


def fail() -> object:
    raise ZeroRttError("not today")


def test_many_requests_on_one_connection(path: Path) -> None:
    with Serving(path, one=lambda: 1, all=lambda: iter("ab")), connect(path) as client:
        say(client, '{"request":"one"}\n{"request":"all"}\n{"request":', '"one"}\n')
        assert [hear(client) for _ in range(3)] == [
            {"answer": 1},
            {"answer": ["a", "b"]},
            {"answer": 1},
        ]
        client.shutdown(socket.SHUT_WR)
        assert hear(client) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"no", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b"[]", "an object"),
        (b"{}", "no request None; there are: add, fail"),
        (b'{"request":["add"]}', "there are: add, fail"),
        (b'{"request":"warp"}', "no request 'warp'; there are: add, fail"),
        (b'{"request":"add","a":1,"c":2,"d":3}', "add: unknown: c, d; allowed: a, b"),
        (b'{"request":"fail","a":1}', "fail: unknown: a; allowed: none"),
        (b'{"request":"fail"}', "not today"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(path: Path, line: bytes, words: str) -> None:
    with (
        Serving(path, add=Request(add, frozenset("ab")), fail=fail) as serving,
        connect(path) as client,
    ):
        say(client, line, b"\n", b'{"request":"add","a":4}\n')
        assert words in hear(client)["error"]
        assert hear(client) == {"answer": 4}  # and it may go on
        assert serving.faults == 0


def test_the_asker_gets_the_error_in_one_line(path: Path) -> None:
    with Serving(path), pytest.raises(ZeroRttError, match="no request 'flows'; there are") as error:
        ask(path, "flows")
    assert error.value.exit_status == 1


def test_a_bug_ends_the_conversation_and_nothing_else(path: Path) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError

    with Serving(path, broken=broken, wrong=lambda: 1 / 0, nan=lambda: float("nan")) as serving:
        for count, name in enumerate(("broken", "wrong", "nan"), start=1):
            with pytest.raises(ZeroRttError, match="has hung up"):
                ask(path, name)
            assert serving.faults == count


# --- rude clients -------------------------------------------------------------------------


def test_a_request_that_does_not_end_is_cut_off(path: Path) -> None:
    with Serving(path) as serving, connect(path) as client:
        with suppress(ConnectionError):
            for _ in range(1000):
                say(client, b"x" * 1000)
        with suppress(ConnectionError):
            assert "longer than 4096 bytes" in hear(client)["error"]
        assert serving.faults == 0


def test_a_silent_client_is_hung_up_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SILENT_S", 0.05)
    with Serving(path, one=lambda: 1), connect(path) as client, connect(path) as halfway:
        say(halfway, '{"request":')
        assert hear(client) is None
        assert hear(halfway) is None


def test_further_clients_wait_for_their_turn(path: Path) -> None:
    with Serving(path, one=lambda: 1):
        first = [connect(path) for _ in range(control.MOST_CLIENTS)]
        for client in first:
            say(client, '{"request":"one"}\n')
            assert hear(client) == {"answer": 1}
        late = connect(path)
        say(late, '{"request":"one"}\n')
        late.settimeout(0.1)
        with pytest.raises(TimeoutError):
            late.recv(1)
        first.pop().close()
        late.settimeout(PATIENCE_S)
        assert hear(late) == {"answer": 1}
        for client in (*first, late):
            client.close()


def test_who_does_not_read_delays_nobody_and_takes_no_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SLOW_S", 0.3)
    made = [0]

    def endless() -> Iterator[str]:
        try:
            while True:
                made[0] += 1
                yield "x" * 1000
        finally:
            ended.append(True)

    ended: list[bool] = []
    with Serving(path, endless=endless, one=lambda: 1) as serving, connect(path) as client:
        say(client, '{"request":"endless"}\n' * 100)
        until(lambda: made[0], "the answer begins")
        assert ask(path, "one") == 1
        sent = -1
        while sent != made[0]:  # until the kernel's buffers are full
            sent = made[0]
            time.sleep(0.1)
        assert sent < 5000
        until(lambda: ended, "it is hung up on")
        with suppress(ConnectionError):
            while client.recv(1 << 20):
                pass
        assert (serving.faults, ask(path, "one")) == (0, 1)


def test_clients_that_come_and_go_leave_nothing_behind(path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Serving(path, many=lambda: iter(range(100_000))) as serving:
        ask(path, "many")
        before = descriptors()
        for _ in range(200):
            with connect(path) as client:
                say(client, '{"request":"many"}\n')
        assert ask(path, "many") == list(range(100_000))
        until(lambda: descriptors() <= before, "all are closed")
        assert serving.faults == 0


def test_packets_have_their_turn_while_an_answer_is_made(path: Path) -> None:
    """An element takes a slice's time here, so each is a slice, and between two is a turn."""

    def slow() -> Iterator[int]:
        for number in range(200):
            end = time.monotonic() + SLICE_S
            while time.monotonic() < end:
                pass
            turns.append(serving.turns)
            yield number

    turns: list[int] = []
    with Serving(path, slow=slow) as serving:
        assert len(ask(path, "slow")) == 200
    assert all(later > earlier for earlier, later in pairwise(turns))


# --- whose path it is ---------------------------------------------------------------------


def test_only_root_may_ask(path: Path) -> None:
    before = os.umask(0)
    try:
        with Serving(path, one=lambda: 1):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        assert os.umask(before) == 0, "the umask is as it was"
    assert not path.exists()


def test_somebody_else_is_told_so(path: Path) -> None:
    if os.geteuid():
        with Serving(path):
            path.chmod(0)
            with pytest.raises(MissingFeatureError, match="root only"):
                ask(path, "one")
        return
    with Serving(path):
        os.seteuid(NOBODY)
        try:
            with pytest.raises(MissingFeatureError, match="root only") as error:
                ask(path, "one")
        finally:
            os.seteuid(0)
    assert error.value.exit_status == 3


def test_a_living_services_socket_is_not_taken(path: Path) -> None:
    with Serving(path, one=lambda: 1):
        with pytest.raises(PathError, match=rf"another service \(pid {os.getpid()}\)"):
            ControlPath.take(path)
        assert ask(path, "one") == 1


def test_not_even_if_it_is_too_busy_to_answer(path: Path) -> None:
    taken = ControlPath.take(path)
    waiting: list[socket.socket] = []
    with suppress(BlockingIOError):
        while len(waiting) < 1000:
            waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting[-1].setblocking(False)
            waiting[-1].connect(str(path))
    assert len(waiting) < 1000
    with pytest.raises(PathError, match="another service, which is busy"):
        ControlPath.take(path)
    for client in waiting:
        client.close()
    taken.close()


def test_a_dead_services_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    with Serving(path, one=lambda: 1):
        assert ask(path, "one") == 1


def test_of_many_that_start_at_once_one_has_it(path: Path) -> None:
    path.parent.mkdir()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(path))
        taken: list[ControlPath] = []
        refused: list[PathError] = []

        def take(taken: list[ControlPath], refused: list[PathError]) -> None:
            try:
                taken.append(ControlPath.take(path))
            except PathError as error:
                refused.append(error)

        threads = [threading.Thread(target=take, args=(taken, refused)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert (len(taken), len(refused)) == (1, 3)
        connect(path).close()
        taken[0].close()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(PathError, match="is no socket"):
        ControlPath.take(path)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(PathError, match="is no socket"):
        ControlPath.take(link)
    assert path.read_text() == "precious"


def test_another_services_socket_stays_when_ours_is_closed(path: Path) -> None:
    ours = ControlPath.take(path)
    path.unlink()
    with Serving(path, one=lambda: 1):
        ours.close()
        assert ask(path, "one") == 1


def test_a_path_that_cannot_be(path: Path, tmp_path: Path) -> None:
    too_long = tmp_path / ("x" * 108)
    with pytest.raises(PathError, match="too long: 107 bytes"):
        ControlPath.take(too_long)
    with pytest.raises(ConfigError, match="--control-socket"):
        ask(too_long, "one")
    (tmp_path / "file").write_text("")
    with pytest.raises(PathError, match="cannot be made: "):
        ControlPath.take(tmp_path / "file" / "control.sock")


def test_nobody_there(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    (tmp_path / "file").write_text("")
    for nobody in (path, tmp_path / "none", tmp_path / "none/deeper", tmp_path / "file/socket"):
        with pytest.raises(ZeroRttError, match=r"no service answers at .*nfq-zerortt run") as error:
            ask(nobody, "one")
        assert error.value.exit_status == 1


def test_somebody_there_who_is_no_service(path: Path) -> None:
    taken = ControlPath.take(path)

    def answer(said: bytes) -> None:
        client, _ = taken.listener.accept()
        with client:
            client.recv(100)
            client.sendall(said)

    for said, words in ((b"hello\n", "no service"), (b"[]\n", "no service"), (b"{", "hung up")):
        thread = threading.Thread(target=answer, args=(said,))
        thread.start()
        with pytest.raises(ZeroRttError, match=words):
            ask(path, "one")
        thread.join(PATIENCE_S)
    taken.close()
