"""A picture as SVG: text stays text, and nothing else is needed to show it."""

from __future__ import annotations

import math
from html import escape

from sslkit.diagram.placement import PAD, Arrow, Box, Picture, Point, Stroke
from sslkit.diagram.text import LEADING, SIZES, Style
from sslkit.shown import visible

COLOURS: dict[Stroke, str] = {"plain": "#7a838d", "student": "#2468a8", "teacher": "#b3591a", "ema": "#7a838d"}
DASHES: dict[Stroke, str] = {"plain": "none", "student": "none", "teacher": "5 3.5", "ema": "1.5 3"}
INK, QUIET, EDGE, PAPER = "#24292f", "#5d6670", "#c4cad1", "#fcfcfb"
FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'Liberation Sans', sans-serif"
TIP = 6.0  # length of an arrow's


def render(picture: Picture) -> str:
    """A picture as SVG."""
    width, height, title = round(picture.width), round(picture.height), escape(visible(picture.title))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="{escape(FONTS)}">',
        f"<title>{title}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="{PAPER}" stroke="{EDGE}"/>',
    ]
    for kind, colour in COLOURS.items():  # one element for all, so that lines drawn over each other look like one
        arrows = [arrow for arrow in (*picture.arrows, *picture.legend) if arrow.stroke == kind]
        if arrows:
            way, style = "".join(map(_way, arrows)), f'stroke="{colour}" stroke-width="1.4"'
            lines.append(f'<path d="{way}" fill="none" {style} stroke-dasharray="{DASHES[kind]}"/>')
            lines.append(f'<path d="{"".join(map(_tip, arrows))}" fill="{colour}"/>')
    for box in picture.boxes:
        lines += _box(box)
    lines += [_text(x.x, x.y, x.words, x.style) for x in picture.labels]
    return "\n".join([*lines, "</svg>", ""])


def _box(box: Box) -> list[str]:
    edge = EDGE if box.stroke == "plain" else COLOURS[box.stroke]
    dashes = "" if DASHES[box.stroke] == "none" else f' stroke-dasharray="{DASHES[box.stroke]}"'
    made = [
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="7" fill="#ffffff" '
        f'stroke="{edge}"{dashes}/>'
    ]
    y = box.middle - sum(SIZES[style] * LEADING for style, _ in box.words) / 2
    for style, words in box.words:
        y += SIZES[style] * LEADING
        x, anchor = (box.x + box.width / 2, "middle") if style == "sum" else (box.x + PAD, "start")
        made.append(_text(x, y - 0.3 * SIZES[style], words, style, anchor))
    return made


def _text(x: float, y: float, words: str, style: Style, anchor: str = "start") -> str:
    colour = {"tag": QUIET, "line": QUIET, "teacher": COLOURS["teacher"]}.get(style, INK)
    weight = ' font-weight="600"' if style == "title" else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    font = f'font-size="{SIZES[style]:g}" fill="{colour}"{weight}'
    return f'<text x="{x:g}" y="{y:.1f}" {font}{where}>{escape(visible(words))}</text>'


def _way(arrow: Arrow) -> str:
    """The line with rounded corners, up to its tip."""
    points = arrow.points
    way = "M{:g} {:g}".format(*points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(6.0, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        bend = (*_towards(corner, before, radius), *corner, *_towards(corner, after, radius))
        way += "L{:g} {:g}Q{:g} {:g} {:g} {:g}".format(*bend)
    return way + "L{:g} {:g}".format(*_towards(points[-1], points[-2], TIP))


def _tip(arrow: Arrow) -> str:
    end, base = arrow.points[-1], _towards(arrow.points[-1], arrow.points[-2], TIP)
    dx, dy = 0.65 * (end[1] - base[1]), 0.65 * (end[0] - base[0])
    return "M{:g} {:g}L{:g} {:g}L{:g} {:g}Z".format(*end, base[0] + dx, base[1] + dy, base[0] - dx, base[1] - dy)


def _towards(start: Point, end: Point, distance: float) -> Point:
    share = distance / max(math.dist(start, end), 1e-6)
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
