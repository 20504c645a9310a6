"""Figures as SVG that stands inside a page: its colours are the page's, in light and in dark, its text stays text."""

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from vltune.canvas import FAINT, INK, LINE, PALETTE, TINT

_COLORS = {
    **{color: f"var(--c{number})" for number, color in enumerate(PALETTE)},
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    LINE: "var(--line)",
    TINT: "var(--tint)",
    "#FFFFFF": "var(--page)",
}
"""Colour of ``canvas`` -> the page's variable of ``page_style.REPORT``."""


def inline_svg(figure: Figure, *, name: str, text: str, kind: str = "") -> str:
    """A figure as an ``<svg>`` element.

    Args:
        figure: drawn with the colours of ``canvas`` alone.
        name: of letters and digits; makes what the figure refers to inside itself its own on the page.
        text: what it shows, for people who hear the page.
        kind: class of the element.
    """
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", drawn).replace("xlink:href", "href")
    used = {*re.findall(r'(?:url\(#|href="#)([\w-]+)', drawn)}
    drawn = re.sub(r'\sid="([\w.-]+)"', lambda m: m[0] if m[1] in used else "", drawn)
    drawn = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif|'DejaVu Sans'", "var(--sans)", drawn)
    for color, variable in _COLORS.items():
        drawn = re.sub(color, variable, drawn, flags=re.IGNORECASE)
    head, body = drawn.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib gives every figure its size"
    return f'<svg class="{kind}" role="img" aria-label="{_escaped(text)}" {box[0]}>{_squeezed(body)}'.rstrip()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _squeezed(body: str) -> str:
    """Coordinates, which stand in tags, with as many digits as can be seen; no blank lines."""
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), body)
    return re.sub(r"\n\s*", "\n", body)
