"""What all our pages have in common: the file around them, the colours, the letters.

A page needs nothing else: no script, no font, no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

# Orange, blue and green of Okabe and Ito, darker or lighter; line and shape differ, too.
LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "text": "#1b1f24",
    "muted": "#5b6470",
    "grid": "#d9dee4",
    "panel": "#f5f7f9",
    "direct": "#b85000",
    "hold": "#0067a3",
    "hold-soft": "#cfe3f1",
    "fastopen": "#00694a",
    "good": "#00694a",
    "bad": "#a1260d",
}
DARK: Mapping[str, str] = {
    "page": "#14181d",
    "text": "#e8ebee",
    "muted": "#a2abb5",
    "grid": "#343b44",
    "panel": "#1c2229",
    "direct": "#f0a04b",
    "hold": "#5db6ec",
    "hold-soft": "#1f3f55",
    "fastopen": "#4fd1a5",
    "good": "#4fd1a5",
    "bad": "#ff9580",
}
PAPER: Mapping[str, str] = {
    **LIGHT,
    "text": "#000000",
    "muted": "#444444",
    "grid": "#cccccc",
    "panel": "#ffffff",
    "hold-soft": "#dddddd",
}


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


COLOURS = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_variables(PAPER)} }} }}
"""
"""Of every page, as variables."""

LETTERS = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
p { max-width: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; }
figure { margin: 0; }
"""


def document(title: str, style: str, body: Sequence[str]) -> str:
    """Return the file; ``style`` is what the page has beside the colours and the letters."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{COLOURS}{LETTERS}{style}</style>\n"
        "</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )
