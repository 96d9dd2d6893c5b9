"""The reference of the commands, the manual pages and the shells' completions are the code's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import cli_reference, manual
from scripts.commands import Command, all_commands

ROOT = Path(__file__).parent.parent


def test_the_reference_is_what_the_commands_say() -> None:
    text = cli_reference.DOCUMENT.read_text(encoding="utf-8")
    assert text == cli_reference.generated(), "python -m scripts.cli_reference --write"


def test_a_changed_reference_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = cli_reference.generated()
    document = tmp_path / "cli.md"
    document.write_text(text.replace("--client-iface", "--client-interface", 1))
    monkeypatch.setattr(cli_reference, "DOCUMENT", document)
    assert cli_reference.main(["--check"]) == 1
    assert "--write" in capsys.readouterr().out
    assert cli_reference.main(["--write"]) == 0
    assert document.read_text() == text
    assert cli_reference.main(["--check"]) == 0
    assert cli_reference.main(["--nonsense"]) == 2


def everything(command: Command) -> Iterator[Command]:
    yield command
    for part in command.parts:
        yield from everything(part)


def test_every_command_and_option_is_in_the_reference_and_in_the_manual() -> None:
    reference, pages = cli_reference.generated(), manual.pages()
    whole = all_commands()
    assert {part.words[-1] for part in whole.parts} >= {"run", "check", "flows", "testbed", "demo"}
    for command in everything(whole):
        if command is not whole:
            assert re.search(rf"^##+ {command.title}$", reference, re.MULTILINE)
        page = pages[f"{'-'.join(command.words[:2])}.8"].replace("\\-", "-")
        for option in command.options:
            if command is not whole:
                assert f"| `{option.names} | ".replace(" | ", "` | ") in reference
            assert f"\n.B {option.names}\n" in page


def test_text_does_not_become_a_request_to_roff() -> None:
    assert manual._plain(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._plain("'x") == "\\&'x"
    assert manual._plain("a \\n --b") == "a \\en \\-\\-b"


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here: what was made for it is not tried")
    return found


@pytest.mark.parametrize(
    "argv", [("groff", "-man", "-ww", "-Tutf8"), ("mandoc", "-Tlint", "-Wwarning")]
)
def test_the_manual_pages_are_well_formed(tmp_path: Path, argv: tuple[str, ...]) -> None:
    program = needs(argv[0])
    assert manual.main([str(tmp_path)]) == 0
    made = sorted((tmp_path / "man").iterdir())
    assert len(made) == len(all_commands().parts) + 1
    done = subprocess.run(
        [program, *argv[1:], *map(str, made)], capture_output=True, text=True, check=False
    )
    said = done.stderr if argv[0] == "groff" else done.stdout
    # A page without a date in its head is the same whenever it is made.
    assert [line for line in said.splitlines() if "missing date" not in line] == []


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A directory with the command, and the completions beside it."""
    assert manual.main([str(tmp_path)]) == 0
    program = tmp_path / "bin/nfq-zerortt"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m nfq_zerortt "$@"\n'
    )
    program.chmod(0o755)
    return tmp_path


BASH = """
source {file}
offered() {{
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _nfq_zerortt_completion nfq-zerortt
    printf '%s\\n' "${{COMPREPLY[@]}}"
}}
offered {words}
"""
ZSH = """
compdef() {{ :; }}
_describe() {{ print -l -- "${{(@P)3}}"; }}
compadd() {{ print -l -- "${{(@P)5}}"; }}
source {file}
words=({words}) CURRENT=${{#words}}
_nfq_zerortt_completion
"""
FISH = "source {file}; complete --do-complete '{line}'"


def script(shell: str, directory: Path, words: list[str]) -> str:
    file = directory / "completions" / manual.COMPLETIONS[shell]
    if shell == "fish":
        return FISH.format(file=file, line=" ".join(words))
    text = {"bash": BASH, "zsh": ZSH}[shell]
    return text.format(file=file, words=" ".join(words))


@pytest.mark.parametrize("shell", manual.COMPLETIONS)
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["nfq-zerortt", "ru"], {"rules", "run"}),
        (["nfq-zerortt", "run", "--client-iface", "l"], {"lo"}),
        (["nfq-zerortt", "run", "--strategy", "ho"], {"hold"}),
        (["nfq-zerortt", "testbed", "exec", "client"], {"client", "clientnic"}),
        (["nfq-zerortt", "run", "--log-f"], {"--log-file", "--log-format"}),
    ],
    ids=["command", "interface", "strategy", "host", "option"],
)
def test_the_tabulator_key(command: Path, shell: str, words: list[str], offered: set[str]) -> None:
    program = needs(shell)
    done = subprocess.run(
        [program, *{"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell], "-c",
         script(shell, command, words)],
        env=os.environ | {"PATH": f"{command / 'bin'}:{os.environ['PATH']}", "HOME": str(command)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    found = {re.split(r"[\t:]", line)[0] for line in done.stdout.splitlines() if line}
    assert found == offered, done.stderr
