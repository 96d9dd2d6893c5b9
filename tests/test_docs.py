"""The documents say what the code does: nothing is missing in them, and nothing is made up."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from nfq_zerortt import config as settings
from nfq_zerortt.cli import cli
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.endings import RESET_BY
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.core.negotiation import reason_to_bypass
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.kernel import features
from nfq_zerortt.observe import hints
from nfq_zerortt.observe.events import LEVELS
from nfq_zerortt.observe.packets import packet_event
from nfq_zerortt.wire.options import OptionSet
from scripts import manual, state_diagram
from tests.scenarios.script import Numbers, Run, scripts

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nfq_zerortt"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DIRECTORIES = (
    *("nfq_zerortt", "tests", "docs", "bench", "fuzz", "scripts", "iptables_rules", "systemd"),
    *("packaging", "vagrant"),
)
EVENTS = (ROOT / "docs/reference/events.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")

IN_EVERY_FLOW_EVENT = {"flow_id", "flow"}
ADDED_BY_THE_SERVICE = {"flow.synack_spoofed": {"latency_us"}}
"""Fields that only a running service knows."""

document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def rows(markdown: str) -> list[list[str]]:
    """Return the cells of all table rows whose first cell is code."""
    found = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:3] == "| `"]
    return [[cell.strip() for cell in row] for row in found]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- the state machine --------------------------------------------------------------------


def test_the_diagram_is_what_the_code_says() -> None:
    text = state_diagram.DOCUMENT.read_text(encoding="utf-8")
    assert text == state_diagram.renewed(text), "python -m scripts.state_diagram --write"


def test_a_changed_diagram_is_noticed() -> None:
    text = state_diagram.DOCUMENT.read_text(encoding="utf-8")
    arrow = "HOLDING --> ESTABLISHED"
    assert text.count(arrow) == 1
    changed = text.replace(arrow, "HOLDING --> CLOSED")
    assert changed != text
    assert state_diagram.renewed(changed) == text
    with pytest.raises(ValueError, match="marker"):
        state_diagram.renewed(text.replace(state_diagram.END, ""))


# --- events -------------------------------------------------------------------------------


def documented_events() -> dict[str, tuple[str, set[str]]]:
    """Return of each event its level and its own fields, as the reference has them."""
    found: dict[str, tuple[str, set[str]]] = {}
    for section in re.split(r"^### ", EVENTS, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        body = re.split(r"^## ", body, flags=re.MULTILINE)[0]
        names, level = codes(heading), heading.rpartition(" ")[2]
        for name in names:
            found[name] = (level, {field for row in rows(body) for field in codes(row[0])})
    return found


class Recorder(Run):
    """Runs a script and keeps the fields of every event, reports and packets alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fields: dict[str, set[str]] = defaultdict(set)

    def _step(self, engine: Any, line: str) -> list[str]:
        packet = engine.packet

        def recording(raw: bytes, side: Side, now: float) -> Actions:
            actions: Actions = packet(raw, side, now)
            for action in actions:
                self._note(raw, side, action)
            return actions

        engine.packet = recording
        try:
            return super()._step(engine, line)
        finally:
            engine.packet = packet

    def _note(self, raw: bytes, side: Side, action: Action) -> None:
        if isinstance(action, Report):
            self.fields[action.event] |= set(action.fields)
            return
        event = packet_event(raw, side, action)
        assert event is not None
        self.fields[event[0]] |= set(event[1])


def calls(*files: Path) -> Iterator[ast.Call]:
    """Return every call in the given source files."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield node


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def texts(*nodes: ast.AST) -> set[str]:
    """Return every text that stands somewhere in the given expressions."""
    leaves = (leaf for node in nodes for leaf in ast.walk(node))
    return {
        leaf.value
        for leaf in leaves
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    }


def written_in_the_code() -> dict[str, set[str]]:
    """Return the fields of events whose name and fields stand in one call."""
    found: dict[str, set[str]] = defaultdict(set)
    for call in calls(*PACKAGE.rglob("*.py")):
        plain = [arg for arg in call.args if isinstance(arg, ast.Constant)]
        named = texts(*plain) & LEVELS.keys()
        if not named or name_of(call) not in {"_event", "event", "_write", "report", "Report"}:
            continue
        (event,) = named
        found[event] |= {word.arg for word in call.keywords if word.arg}
        for arg in call.args:
            if isinstance(arg, ast.Dict):
                found[event] |= texts(*(key for key in arg.keys if key is not None))
    return found


def test_every_event_is_documented_with_its_level_and_no_other() -> None:
    assert {name: level for name, (level, _) in documented_events().items()} == LEVELS


def test_every_field_of_an_event_is_documented_and_no_other() -> None:
    happened = written_in_the_code()
    for script in scripts():
        run = Recorder(Numbers(c=1_000_000, r=3_000_000_000))
        run.play(script.read_text(encoding="utf-8"))
        for event, names in run.fields.items():
            happened[event] |= names
    for event, names in ADDED_BY_THE_SERVICE.items():
        happened[event] |= names
    own = {event: names - IN_EVERY_FLOW_EVENT for event, names in happened.items()}
    assert {event: fields for event, (_, fields) in documented_events().items()} == own


def reasons_in_the_code() -> set[str]:
    """Return every reason that the core gives for what it does, as far as it is a plain text."""
    found = {Replace(b"").reason, SPOOFED_SYN_ACK, *(reason for _, reason in RESET_BY.values())}
    for call in calls(*(PACKAGE / "core").rglob("*.py")):
        name, words = name_of(call), {word.arg: word.value for word in call.keywords}
        values: list[ast.expr] = []
        if name in {kind.__name__ for kind in (Accept, Drop)}:
            values = call.args[:1]
        elif name == Replace.__name__:
            values = call.args[1:2]
        elif name == Send.__name__:
            values = call.args[2:3]
        elif name in {"close", "abandon", "let_pass", "leave_alone"}:
            values = call.args[1:]
        elif name == "report" and "reason" in words:
            values = [words["reason"]]
        found |= texts(*values)
    for node in ast.walk(ast.parse((PACKAGE / "core/admission.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Return) and node.value is not None:
            kinds = (ast.Constant, ast.IfExp)
            found |= texts(node.value) if isinstance(node.value, kinds) else set()
    by_option = (reason_to_bypass(OptionSet(kinds=(kind,))) for kind in range(256))
    return found | {reason for reason in by_option if reason}


def test_every_reason_is_documented_and_no_other() -> None:
    reasons = EVENTS.partition("\n## Reasons\n")[2]
    told = {reason for row in rows(reasons) for reason in codes(row[0])}
    exact = {reason for reason in told if " " not in reason and "…" not in reason}
    # What begins with "_" is the rest of an f-string, what has a space is a sentence.
    assert exact == {reason for reason in reasons_in_the_code() if re.match(r"[a-z]\S*$", reason)}


# --- warnings -----------------------------------------------------------------------------


def warned_of() -> set[str]:
    """Return what a `service.warning` may be about, as it stands in the code."""
    found: set[str] = set()
    for call in calls(*PACKAGE.rglob("*.py")):
        of_start = "_warnings" in ast.unparse(call.func) and name_of(call) == "append"
        told = call.args[0].elts if of_start and isinstance(call.args[0], ast.Tuple) else call.args
        if (of_start or name_of(call) == "warn") and not isinstance(told[0], ast.Starred):
            found |= texts(told[0])
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                both = zip(node.keys, node.values, strict=True)
                values = {next(iter(texts(key)), ""): value for key, value in both if key}
                found |= texts(values["about"]) if {"about", "remedy"} <= values.keys() else set()
    for node in ast.walk(ast.parse(inspect.getsource(hints))):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            found |= texts(node.value.elts[0])
    probes = inspect.getclosurevars(features.warnings_for_run).globals.values()
    for probe in filter(inspect.isfunction, probes):
        if probe.__annotations__.get("return") != "Feature":
            continue
        named = re.search(r'^ +name = "(.+)"$', inspect.getsource(probe), re.MULTILINE)
        assert named, f"{probe.__name__} does not name what it looks at"
        found.add(named[1])
    return found


def test_what_to_do_about_each_warning_is_told() -> None:
    text = (ROOT / "docs/howto/first-aid.md").read_text(encoding="utf-8")
    table = re.search(r"^\| about .*\n\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table
    told = [line.split("|")[1].strip() for line in table[1].splitlines()]
    assert sorted(told) == sorted(warned_of())


# --- configuration ------------------------------------------------------------------------


def documented_keys() -> tuple[list[list[str]], list[list[str]]]:
    general, _, limits = CONFIGURATION.partition("\n## Limits\n")
    general = general.partition("\n## Destinations\n")[0]
    return rows(general), rows(limits)


def test_every_key_is_documented_with_its_default_and_no_other() -> None:
    config = settings.Config()
    general, limits = documented_keys()
    expected = {
        field.name: str(getattr(config, field.name)).lower()
        for field in dataclasses.fields(config)
        if field.name not in {"limits", "destinations"}
    }
    shown = {codes(row[0])[0]: "".join(codes(row[1])).strip('"') for row in general}
    assert shown == expected
    expected = {name: str(value) for name, value in dataclasses.asdict(config.limits).items()}
    assert {codes(row[0])[0]: codes(row[1])[0] for row in limits} == expected


@pytest.mark.parametrize("row", documented_keys()[1], ids=lambda row: str(row[0]))
def test_the_documented_range_is_the_allowed_one(row: list[str], tmp_path: Path) -> None:
    low, high = (int(number.replace(",", "")) for number in row[2].split(" to "))
    file = tmp_path / "config.toml"

    def load(value: int) -> int:
        key = codes(row[0])[0]
        file.write_text(f"[limits]\n{key} = {value}\n", encoding="utf-8")
        return int(getattr(settings.load(file).limits, key))

    assert [load(low), load(high)] == [low, high]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=str(value)):
            load(value)


@document
def test_the_configurations_that_are_shown_are_accepted(path: Path, tmp_path: Path) -> None:
    for example in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        file = tmp_path / "config.toml"
        file.write_text(example, encoding="utf-8")
        assert settings.load(file) != settings.Config()


# --- commands -----------------------------------------------------------------------------

COMMAND = "nfq-zerortt"


def fenced(text: str) -> Iterator[str]:
    """Return the lines of code blocks, those that end in a backslash joined."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def shown_commands(text: str) -> Iterator[list[str]]:
    """Return the arguments of each call of our command in code blocks and in running text."""
    for line in [*fenced(text), *re.findall(rf"`({COMMAND} [^`]+)`", text)]:
        words = shlex.split(line, comments=True) if COMMAND in line else []
        starts = [n for n, word in enumerate(words) if word.rpartition("/")[2] == COMMAND]
        for start, end in pairwise([*starts, len(words)]):
            yield words[start + 1 : end]


def check_command(words: list[str]) -> None:
    """Walk down to the subcommand, and see that each of its options exists."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no command {name!r} in: {' '.join(words)}"
        command = found
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for word in rest:
        if word == "--":
            break
        option = word.partition("=")[0]
        if option.startswith("-") and option not in ("-h", "--help"):
            assert option in known, f"no option {option} in: {' '.join(words)}"


@document
def test_the_commands_that_are_shown_exist(path: Path) -> None:
    for words in shown_commands(path.read_text(encoding="utf-8")):
        check_command(words)


def test_the_readme_shows_commands() -> None:
    shown = list(shown_commands((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {words[0] for words in shown if words} >= {"run", "check", "testbed"}


@pytest.mark.parametrize("words", [["nonsense"], ["run", "--nonsense"], ["testbed", "up", "--x=1"]])
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"no command|no option"):
        check_command(words)


@document
def test_the_make_targets_that_are_shown_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    shown = set(re.findall(r"`(?:sudo )?make ([a-z]+)", text))
    shown |= {name for line in fenced(text) for name in re.findall(r"^(?:sudo )?make (\w+)", line)}
    assert shown <= targets


def test_what_is_said_of_the_manual_pages_is_made(tmp_path: Path) -> None:
    """Every file that the how-to installs or shows is one that its first command makes."""
    text = (ROOT / "docs/howto/manual.md").read_text(encoding="utf-8")
    made = "build/manual"
    assert f"python -m scripts.manual {made}" in text
    assert manual.main([str(tmp_path)]) == 0
    named = set(re.findall(rf"{made}/([\w./*-]+)", text))
    assert len(named) >= 5
    for name in named:
        assert list(tmp_path.glob(name)), name


# --- links --------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Return the anchors that a document's headings have, made as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@document
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert file.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(file), link


def files_named(text: str) -> list[tuple[str, str]]:
    """Return the files and directories of ours that a text names, with a test's name if any.

    The package's parts stand without its name, too: `core/engine.py`.
    """
    ours = "|".join([*DIRECTORIES, *(part.name for part in PACKAGE.iterdir() if part.is_dir())])
    return re.findall(rf"`((?:{ours})/[\w./-]*)(?:::(\w+))?`", text)


def place_of(name: str) -> Path:
    """Return where a named file is."""
    places = [base / name for base in (ROOT, PACKAGE) if (base / name).exists()]
    assert places, name
    return places[0]


@document
def test_files_and_tests_that_are_named_exist(path: Path) -> None:
    for name, function in files_named(path.read_text(encoding="utf-8")):
        file = place_of(name)
        if function:
            source = file.read_text(encoding="utf-8")
            assert re.search(rf"^def {function}\(", source, re.MULTILINE), f"{name}::{function}"


def test_a_file_that_there_is_not_is_noticed() -> None:
    assert files_named("`core/engine.py` and `docs/` do") == [("core/engine.py", ""), ("docs/", "")]
    for name in ("core/engines.py", "tests/core/engine.py", "nfq_zerortt/engine.py"):
        ((named, _),) = files_named(f"`{name}`")
        with pytest.raises(AssertionError, match=name):
            place_of(named)


def test_the_checks_look_at_something() -> None:
    """Of each check: that it finds what it shall check in the documents as they are."""
    finders: dict[str, Callable[[str], object]] = {
        "links": lambda text: re.findall(r"\]\(([^)\s]+)\)", text),
        "commands": lambda text: list(shown_commands(text)),
        "files": files_named,
        "tests": lambda text: [function for _, function in files_named(text) if function],
        "configurations": lambda text: re.findall(r"```toml\n(.*?)```", text, re.DOTALL),
    }
    for name, finder in finders.items():
        assert any(finder(path.read_text(encoding="utf-8")) for path in DOCUMENTS), name
