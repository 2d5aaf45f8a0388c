"""Small pictures as SVG: bars, bars of parts, spans of time; text is text, readable on light and dark screens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, RIGHT = 800, 230, 110  # of the picture, left of the bars, right of them
BAR, STEP, HEAD = 16, 24, 34  # heights: a bar, a row, a panel's title
SPAN = WIDTH - LABEL - RIGHT
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#b89b1d", "#9d755d", "#8c8c8c", "#3aa6a6", "#d67195")
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 } .small { font-size: 12px; fill: #59636e } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .ground { fill: #0d1117 }
}"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a bar; ``start``: where it begins (None: at the end of the one before)."""

    label: str
    value: float
    colour: int = 0
    start: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bar and what stands right of it."""

    label: str
    parts: Sequence[Part]
    text: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Bars that share one scale, under a title; ``legend``: name the parts below."""

    title: str
    rows: Sequence[Row]
    legend: bool = False


def bar(label: str, value: float, text: str, colour: int = 0) -> Row:
    """Return a bar of one piece."""
    return Row(label=label, parts=[Part(label=label, value=value, colour=colour)], text=text)


def picture(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG document of panels, one below the other."""
    lines, y = [], 8.0
    for panel in panels:
        drawn, y = _panel(panel, y)
        lines += drawn
    height = round(y + 8)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
            *lines,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, y: float) -> tuple[list[str], float]:
    most = max((_end(row) for row in panel.rows), default=0) or 1.0
    lines = [_text(12, y + 20, panel.title, "title")]
    y += HEAD
    for row in panel.rows:
        lines.append(_text(LABEL - 8, y + 13, row.label, end=True))
        x = 0.0
        for part in row.parts:
            begin = x if part.start is None else part.start
            x = begin + part.value
            left, width = LABEL + begin / most * SPAN, max(part.value / most * SPAN, 1.0)
            tip = f"<title>{escape(part.label)}: {part.value:,.2f}</title>"
            lines.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" '
                f'fill="{COLOURS[part.colour % len(COLOURS)]}">{tip}</rect>'
            )
        lines.append(_text(LABEL + x / most * SPAN + 6, y + 13, row.text, "small"))
        y += STEP
    if panel.legend:
        drawn, y = _legend(panel, y)
        lines += drawn
    return lines, y + 6


def _end(row: Row) -> float:
    x = 0.0
    for part in row.parts:
        x = (x if part.start is None else part.start) + part.value
    return x


def _legend(panel: Panel, y: float) -> tuple[list[str], float]:
    """Name each part once, in lines as wide as the picture."""
    known = {part.label: part.colour for row in panel.rows for part in row.parts}
    lines, x = [], float(LABEL)
    for label, colour in known.items():
        wide = 26 + 7.2 * len(label)
        if x + wide > WIDTH:
            x, y = float(LABEL), y + 20
        lines.append(f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="11" height="11" fill="{COLOURS[colour]}"/>')
        lines.append(_text(x + 16, y + 12, label, "small"))
        x += wide
    return lines, y + 22


def _text(x: float, y: float, words: str, kind: str = "", *, end: bool = False) -> str:
    marks = (f' class="{kind}"' if kind else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{marks}>{escape(words)}</text>'
