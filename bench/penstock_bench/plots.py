"""Pictures of numbers, from data to text: SVG charts, one page of HTML around them, and bars for a terminal.

Small on purpose: lines over one axis are all that is drawn, and no library that draws has to be installed with the
server. Everything here is a pure function. The page needs nothing from elsewhere, is well-formed XML, and takes its
colours from the reader's light or dark scheme; lines differ in colour, dash and marker, so that no one of them has to
be seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

_BLOCKS = " ▁▂▃▄▅▆▇█"

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 20, 66, 52  # of the frame: space for labels, the title and the legend
_TICKS = 6
_DASHES = ("", "7 4", "2 3", "9 3 2 3")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem;
       color: CanvasText; background: Canvas; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
svg .title { font-size: 15px; font-weight: 600; }
svg .grid { stroke: currentColor; stroke-opacity: .15; }
svg .axis { stroke: currentColor; stroke-opacity: .6; }
svg .line { fill: none; stroke-width: 2.2; }
svg .s0 { stroke: #2f7ed8; } svg .m0 { fill: #2f7ed8; }
svg .s1 { stroke: #d9730d; } svg .m1 { fill: #d9730d; }
svg .s2 { stroke: #1f9d6b; } svg .m2 { fill: #1f9d6b; }
svg .s3 { stroke: #a259d9; } svg .m3 { fill: #a259d9; }
svg .reference { fill: none; stroke: currentColor; stroke-opacity: .7; stroke-dasharray: 3 5; stroke-width: 1.5; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th:last-child, td:last-child { text-align: left; }
"""  # noqa: E501 - a rule a line


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. Points that are not finite, or not positive on a logarithmic axis, are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    """Which of the four looks; the same for the same thing in every chart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    references: Sequence[Line] = ()
    """Thin dashed lines without markers: what the others are held against."""
    logarithmic: bool = False
    """The y axis."""
    y_top: float | None = None
    """The y axis ends here. None: where the data does."""


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers under the charts, as text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def bars(values: Iterable[float], top: float, width: int = 1) -> list[str]:
    """A bar for each value, from nothing at 0 to full height at `top`, as a character that is repeated."""
    return [_BLOCKS[_height(value, top)] * width for value in values]


def _height(value: float, top: float) -> int:
    """From 0 to 8; what is there at all is seen."""
    if not value > 0 or not top > 0:
        return 0
    return max(1, min(8, round(8 * value / top)))


def page(title: str, notes: Sequence[str], charts: Sequence[Chart], tables: Sequence[Table]) -> str:
    """One page of HTML that needs nothing else."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">',
        '<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width"/>',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        '<div class="charts">',
        *map(svg, charts),
        "</div>",
        *map(_table, tables),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<h2>{escape(table.title)}</h2>\n<div class="table"><table><tr>{head}</tr>\n{body}</table></div>'


def svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    return "\n".join(_Frame(chart).draw())


class _Frame:
    """A chart's axes, and where a point is on them."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        points = [point for line in (*chart.lines, *chart.references) for point in self._shown(line)]
        self._x_ticks = _linear_ticks(max((x for x, _ in points), default=1.0))
        values = [y for _, y in points]
        if chart.logarithmic:
            self._y_ticks = _log_ticks(min(values, default=1.0), max(values, default=10.0))
        else:
            self._y_ticks = _linear_ticks(chart.y_top or max(values, default=1.0))

    def draw(self) -> Iterator[str]:
        chart = self._chart
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(chart.title)}">'
        )
        yield f'<text class="title" x="{_LEFT}" y="20">{escape(chart.title)}</text>'
        yield from self._legend()
        yield from self._axes()
        for line in chart.references:
            yield f'<polyline class="reference" points="{self._path(line)}"/>'
        for line in chart.lines:
            look = line.style % len(_DASHES)
            dash = f' stroke-dasharray="{_DASHES[look]}"' if _DASHES[look] else ""
            yield f'<polyline class="line s{look}"{dash} points="{self._path(line)}"/>'
            for x, y in self._shown(line):
                hint = f"<title>{escape(line.name)}: {_number(y)} at {_number(x)}</title>"
                yield _marker(look, self._x(x), self._y(y), hint)
        yield "</svg>"

    def _legend(self) -> Iterator[str]:
        at = float(_LEFT)
        for line, look in [(line, line.style % len(_DASHES)) for line in self._chart.lines] + [
            (line, None) for line in self._chart.references
        ]:
            if look is None:
                yield f'<path class="reference" d="M{at:g} 42h26"/>'
            else:
                dash = f' stroke-dasharray="{_DASHES[look]}"' if _DASHES[look] else ""
                yield f'<path class="line s{look}"{dash} d="M{at:g} 42h26"/>' + _marker(look, at + 13, 42)
            yield f'<text x="{at + 32:g}" y="46">{escape(line.name)}</text>'
            at += 50 + 7.2 * len(line.name)

    def _axes(self) -> Iterator[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        for tick in self._y_ticks:
            y = self._y(tick)
            yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        for tick in self._x_ticks:
            x = self._x(tick)
            yield f'<path class="axis" d="M{x:.1f} {bottom}v5"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{_number(tick)}</text>'
        yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}" fill="none"/>'
        middle = (_LEFT + right) / 2
        yield f'<text x="{middle:g}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(self._chart.x_label)}</text>'
        middle = (_TOP + bottom) / 2
        yield (
            f'<text transform="translate(16 {middle:g}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._chart.y_label)}</text>"
        )

    def _shown(self, line: Line) -> list[tuple[float, float]]:
        return [
            (x, y)
            for x, y in line.points
            if isfinite(x) and isfinite(y) and x >= 0 and (y > 0 if self._chart.logarithmic else y >= 0)
        ]

    def _path(self, line: Line) -> str:
        return " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in self._shown(line))

    def _x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self._x_ticks[-1]

    def _y(self, value: float) -> float:
        low, high = self._y_ticks[0], self._y_ticks[-1]
        if self._chart.logarithmic:
            low, high, value = log10(low), log10(high), log10(value)
        part = (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part


def _marker(look: int, x: float, y: float, hint: str = "") -> str:
    shapes = (
        f'<circle class="m{look}" cx="{x:.1f}" cy="{y:.1f}" r="4">{hint}</circle>',
        f'<rect class="m{look}" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2">{hint}</rect>',
        f'<path class="m{look}" d="M{x:.1f} {y - 5:.1f}l4.8 8.4h-9.6z">{hint}</path>',
        f'<path class="m{look}" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z">{hint}</path>',
    )
    return shapes[look]


def _linear_ticks(top: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `top`."""
    if not top > 0:
        return [0.0, 1.0]
    step = 10.0 ** floor(log10(top / _TICKS))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10, 20) if top / (step * factor) <= _TICKS)
    return [step * number for number in range(ceil(top / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around what is shown; only the powers where that would be too many."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [
            step * 10.0**power
            for power in range(floor(log10(low)), ceil(log10(high)) + 1)
            for step in steps
            if low / 10 < step * 10.0**power < high * 10
        ]
        first = max((number for number, tick in enumerate(ticks) if tick <= low), default=0)
        last = min((number for number, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
        ticks = ticks[first : max(last, first + 1) + 1]
        if len(ticks) <= 9:
            break
    return ticks


def _number(value: float) -> str:
    """As short as it reads well: four digits that matter, and no exponent for what is large."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
