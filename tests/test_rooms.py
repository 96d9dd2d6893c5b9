"""The rooms of CONTRIBUTING.md: each module has one, and imports only from there and below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nfq_zerortt"
NOBODYS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # the version; the command


def rooms() -> list[list[str]]:
    """Return the places of each room, the highest room first, as the table has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `nfq_zerortt/")]
    return [re.findall(r"`([^`]+)`", row) for row in rows]


ROOMS = rooms()
MODULES = sorted(set(PACKAGE.rglob("*.py")) - NOBODYS)


def room_of(path: Path) -> int | None:
    """Return the number of a module's room; None if it has none."""
    name = str(path.relative_to(ROOT))
    for number, places in enumerate(ROOMS):
        if any(name == place or (place[-1] == "/" and name.startswith(place)) for place in places):
            return number
    return None


def imported(source: str) -> Iterator[Path]:
    """Give the modules of ours that a source imports, also where it does so in a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole module here: from nfq_zerortt.… import"
            names = [f"{node.module}.{name.name}" for name in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name:
                yield module_of(name)


def module_of(name: str) -> Path:
    """Return the module of that name, or the one in which it is the name of something."""
    path = ROOT.joinpath(*name.split("."))
    places = (
        path.with_suffix(".py"),
        path / "__init__.py",
        path.parent.with_suffix(".py"),
        path.parent / "__init__.py",
    )
    return next(place for place in places if place.exists())


def too_high(module: Path, source: str) -> list[str]:
    """Return what a module imports from rooms above its own."""
    own = room_of(module)
    assert own is not None
    return [
        str(path.relative_to(ROOT))
        for path in imported(source)
        if path not in NOBODYS and (room_of(path) or 0) < own
    ]


def test_every_place_in_the_table_is_there() -> None:
    assert len(ROOMS) > 10
    assert [place for room in ROOMS for place in room if not (ROOT / place).exists()] == []


def test_every_module_has_a_room() -> None:
    homeless = [str(module.relative_to(ROOT)) for module in MODULES if room_of(module) is None]
    assert homeless == [], "add them to the table of rooms in CONTRIBUTING.md"


def test_a_module_uses_only_rooms_below_its_own() -> None:
    found = {
        str(module.relative_to(ROOT)): too_high(module, module.read_text(encoding="utf-8"))
        for module in MODULES
    }
    assert {module: above for module, above in found.items() if above} == {}


def test_an_import_from_above_is_noticed() -> None:
    live, source = PACKAGE / "live" / "screen.py", "from nfq_zerortt.cli.stats import stats\n"
    assert too_high(live, source) == ["nfq_zerortt/cli/stats.py"]
    within = "def f() -> None:\n    from nfq_zerortt.core import engine\n"
    assert too_high(PACKAGE / "wire" / "view.py", within) == ["nfq_zerortt/core/engine.py"]
    plain = "import nfq_zerortt.core.engine as engine\n"
    assert too_high(PACKAGE / "wire" / "view.py", plain) == ["nfq_zerortt/core/engine.py"]
    package = "import sys, nfq_zerortt.core\n"
    assert too_high(PACKAGE / "wire" / "view.py", package) == ["nfq_zerortt/core/__init__.py"]
    assert too_high(PACKAGE / "core" / "flow.py", "from nfq_zerortt.wire.view import look\n") == []
