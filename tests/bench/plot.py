"""A picture of a few curves over a logarithmic axis, as plain SVG."""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 400, 70, 50, 180, 60
_COLOURS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) with a name."""

    name: str
    points: list[tuple[float, float]]


def drawn(title: str, x_label: str, y_label: str, curves: list[Curve]) -> str:
    """The picture; x is logarithmic, y begins at 0."""
    xs = sorted({x for curve in curves for x, _ in curve.points})
    most = _round_up(max(y for curve in curves for _, y in curve.points))
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def across(x: float) -> float:
        return _LEFT + (right - _LEFT) * math.log(x / xs[0]) / math.log(xs[-1] / xs[0])

    def up(y: float) -> float:
        return bottom - (bottom - _TOP) * y / most

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="15">{escape(title)}</text>',
    ]
    for step in range(5):
        y = most * step / 4
        out.append(f'<line x1="{_LEFT}" x2="{right}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="#d0d7de"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    out += [f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:,.0f}</text>' for x in xs]
    out.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text x="{_LEFT - 8}" y="{_TOP - 10}" text-anchor="end">{escape(y_label)}</text>')
    for colour, curve in zip(_COLOURS, curves, strict=False):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in curve.points:
            out.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>')
        last = curve.points[-1]
        out.append(f'<text x="{right + 10}" y="{up(last[1]) + 4:.1f}" fill="{colour}">{escape(curve.name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
