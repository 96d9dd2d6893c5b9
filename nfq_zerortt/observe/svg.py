"""Making SVG text: elements, escaped, and the few colours that all pictures share.

Pictures stand inside an HTML page and take their colours from its custom properties, so that
they follow a light or dark page. Colour never says anything alone: line style, shape or a
label says it too.
"""

from __future__ import annotations

from html import escape

STYLE = """
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; }
svg .mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
svg .muted { fill: var(--muted); }
svg .strong { font-weight: 600; }
svg .halo { paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }
svg .grid { stroke: var(--grid); stroke-width: 1; fill: none; }
"""


def element(name: str, *children: str, **attributes: str | float) -> str:
    """Return an element; children are SVG already, ``class_`` and ``text_anchor`` lose ``_``."""
    parts = [name]
    for key, value in attributes.items():
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    opening = " ".join(parts)
    return f"<{opening}>{''.join(children)}</{name}>" if children else f"<{opening}/>"


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> str:
    """Return a line of text whose baseline is at ``y``."""
    return element(
        "text", escape(content), x=float(x), y=float(y), class_=class_, text_anchor=anchor
    )


def picture(width: float, height: float, title: str, description: str, *children: str) -> str:
    """Return a whole picture that scales to its container, with words for who cannot see it."""
    return element(
        "svg",
        element("title", escape(title)),
        element("desc", escape(description)),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def nice_step(span: float, most: int) -> float:
    """Return the distance between an axis's marks: 1, 2 or 5 times a power of ten."""
    if span <= 0:
        return 1.0
    power = 10.0**-6
    while True:
        for factor in (1, 2, 5):
            if span / (factor * power) <= most:
                return factor * power
        power *= 10
