"""Pictures of numbers, from data to text: SVG charts, one page of HTML around them, and bars for a terminal.

Small on purpose: lines over one axis and bars beside each other are all that is drawn, and no library that draws has to
be installed. Everything here is a pure function. The page needs nothing from elsewhere, is well-formed XML, and takes
its colours from the reader's light or dark scheme; the ten looks of a line differ in colour, dash and marker, so that
no one of them has to be seen.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

_BLOCKS = " ▁▂▃▄▅▆▇█"

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 32, 66, 52  # of the frame: space for labels, the title and the legend
_TICKS = 6
_LEGEND_ROW, _LEGEND_SIGN, _LETTER = 20, 50, 7.2  # height, width of a line's sign with its spaces, of a letter
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 4", "1 4", "14 3 2 3 2 3", "6 2 1 2", "3 6")
COLOURS = (
    *("#2f7ed8", "#d9730d", "#1f9d6b", "#a259d9", "#d6455d"),
    *("#0fa3b1", "#9c6b3f", "#d957a8", "#8a8f2a", "#7a8699"),
)
# From the middle: circle, square, triangle, diamond, triangles to three sides, plus, hexagon, plank.
_MARKERS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-3.6-3.6h7.2v7.2h-7.2z",
    "m0-5l4.8 8.4h-9.6z",
    "m0-5l5 5l-5 5l-5-5z",
    "m0 5l4.8-8.4h-9.6z",
    "m-5 0l8.4-4.8v9.6z",
    "m5 0l-8.4-4.8v9.6z",
    "m-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
    "m-2.5-4.3h5l2.5 4.3l-2.5 4.3h-5l-2.5-4.3z",
    "m-5-2h10v4h-10z",
)
LOOKS = len(COLOURS)

_MARGIN, _VALUE_WIDTH = 14, 120  # of bars: what is left free at the left, and at the right for the values
_NAME_HEIGHT, _BAR_HEIGHT, _BAR_GAP = 20, 15, 9
_NOTE_LETTERS = 78

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
svg .reference { fill: none; stroke: currentColor; stroke-opacity: .7; stroke-dasharray: 3 5; stroke-width: 1.5; }
svg .bar { stroke: none; } svg .second { fill-opacity: .45; }
svg .whisker { stroke: currentColor; stroke-width: 1.5; fill: none; }
svg .note { font-style: italic; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th:last-child, td:last-child, .text { text-align: left; }
tr.loud td { background: color-mix(in srgb, #d6455d 14%, transparent); }
.loud-note { border-left: .4rem solid #d6455d; padding: .4rem 1rem; background: color-mix(in srgb, #d6455d 12%, transparent); }
.loud-note p { margin: .3rem 0; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; overflow-wrap: anywhere; }
"""  # noqa: E501 - a rule a line
_LOOKS = "\n".join(f"svg .s{n} {{ stroke: {c}; }} svg .m{n} {{ fill: {c}; }}" for n, c in enumerate(COLOURS))


def number(value: float) -> str:
    """As short as it reads well: four digits that matter, and no exponent for what is large."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. Points that are not finite, or not positive on a logarithmic axis, are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    """Which of the ten looks; the same for the same thing in every chart."""
    every: int = 1
    """One in so many points has a marker."""


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
    logarithmic_x: bool = False
    x_text: Callable[[float], str] = number
    """How a place on the x axis is labelled."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing, with a bar for each of the chart's measures."""

    name: str
    values: Sequence[float | None]
    style: int = 0
    spread: tuple[float, float] | None = None
    """Of the first value: from where to where it was found."""
    note: str = ""
    """What must be known of it, or why there are no values."""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Things beside each other: horizontal bars from 0, one below the other."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    measures: Sequence[str] = ("",)
    """What the values of each bar are; one or two."""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers under the charts, as text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 0
    """So many columns at the left are words, as the last one is."""
    loud: Collection[int] = ()
    """The numbers of rows that nobody shall overlook."""


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
    return document(title, [*map(paragraph, notes), grid(map(svg, charts)), *map(table, tables)])


def document(title: str, parts: Iterable[str]) -> str:
    """A page of HTML around parts of it."""
    opening = [
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">',
        '<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width"/>',
        f"<title>{escape(title)}</title><style>{_STYLE}{_LOOKS}</style></head>\n<body>\n<h1>{escape(title)}</h1>",
    ]
    return "\n".join([*opening, *parts, "</body></html>\n"])


def heading(text: str) -> str:
    """Of a part of a page."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """One paragraph."""
    return f"<p>{escape(text)}</p>"


def loud_note(notes: Iterable[str]) -> str:
    """What must be read before anything else; nothing if there is nothing."""
    paragraphs = "".join(map(paragraph, notes))
    return f'<div class="loud-note">{paragraphs}</div>' if paragraphs else ""


def definitions(of: Iterable[tuple[str, str]]) -> str:
    """Words, and what they stand for."""
    return "<dl>" + "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in of) + "</dl>"


def grid(pictures: Iterable[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    return "\n".join(['<div class="charts">', *pictures, "</div>"])


def table(of: Table) -> str:
    """The table under its title."""
    head = _row(of.head, of.texts, "th")
    body = "\n".join(
        f"<tr{_class('loud', place in of.loud)}>{_row(row, of.texts, 'td')}</tr>" for place, row in enumerate(of.rows)
    )
    return f'{heading(of.title)}\n<div class="table"><table><tr>{head}</tr>\n{body}</table></div>'


def _row(cells: Sequence[str], texts: int, tag: str) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    return "".join(
        f"<{tag}{scope}{_class('text', place < texts)}>{escape(cell)}</{tag}>" for place, cell in enumerate(cells)
    )


def _class(name: str, applies: bool) -> str:
    return f' class="{name}"' if applies else ""


def svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    return "\n".join(_Frame(chart).draw())


class _Frame:
    """A chart's axes, and where a point is on them."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        points = [point for line in (*chart.lines, *chart.references) for point in self._shown(line)]
        self._x_ticks = _ticks([x for x, _ in points], chart.logarithmic_x)
        self._y_ticks = _ticks([y for _, y in points], chart.logarithmic, chart.y_top)
        self._signs = [*_places([line.name for line in (*chart.lines, *chart.references)])]
        further = max((row for row, _ in self._signs), default=0) * _LEGEND_ROW
        self._top = _TOP + further
        self._bottom = _HEIGHT - _BOTTOM + further

    def draw(self) -> Iterator[str]:
        chart = self._chart
        yield _opening(chart.title, self._bottom + _BOTTOM)
        yield f'<text class="title" x="{_LEFT}" y="20">{escape(chart.title)}</text>'
        yield from self._legend()
        yield from self._axes()
        for line in chart.references:
            yield f'<polyline class="reference" points="{self._path(line)}"/>'
        for line in chart.lines:
            look = line.style % LOOKS
            yield f'<polyline class="line s{look}"{_dash(look)} points="{self._path(line)}"/>'
            for x, y in self._shown(line)[:: line.every]:
                hint = f"<title>{escape(line.name)}: {number(y)} at {escape(chart.x_text(x))}</title>"
                yield _marker(look, self._x(x), self._y(y), hint)
        yield "</svg>"

    def _legend(self) -> Iterator[str]:
        lines = self._chart.lines
        for place, line in enumerate((*lines, *self._chart.references)):
            row, x = self._signs[place]
            y = 42 + row * _LEGEND_ROW
            if place < len(lines):
                look = line.style % LOOKS
                yield f'<path class="line s{look}"{_dash(look)} d="M{x:g} {y}h26"/>' + _marker(look, x + 13, y)
            else:
                yield f'<path class="reference" d="M{x:g} {y}h26"/>'
            yield f'<text x="{x + 32:g}" y="{y + 4}">{escape(line.name)}</text>'

    def _axes(self) -> Iterator[str]:
        bottom, right = self._bottom, _WIDTH - _RIGHT
        for tick in self._y_ticks:
            y = self._y(tick)
            yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in self._x_ticks:
            x = self._x(tick)
            yield f'<path class="axis" d="M{x:.1f} {bottom}v5"/>'
            text = escape(self._chart.x_text(tick))
            yield f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{text}</text>'
        yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}" fill="none"/>'
        middle = (_LEFT + right) / 2
        yield f'<text x="{middle:g}" y="{bottom + 44}" text-anchor="middle">{escape(self._chart.x_label)}</text>'
        middle = (self._top + bottom) / 2
        yield (
            f'<text transform="translate(16 {middle:g}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._chart.y_label)}</text>"
        )

    def _shown(self, line: Line) -> list[tuple[float, float]]:
        chart = self._chart
        return [(x, y) for x, y in line.points if _fits(x, chart.logarithmic_x) and _fits(y, chart.logarithmic)]

    def _path(self, line: Line) -> str:
        return " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in self._shown(line))

    def _x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _part(value, self._x_ticks, self._chart.logarithmic_x)

    def _y(self, value: float) -> float:
        return self._bottom - (self._bottom - self._top) * _part(value, self._y_ticks, self._chart.logarithmic)


def _fits(value: float, logarithmic: bool) -> bool:
    return isfinite(value) and (value > 0 if logarithmic else value >= 0)


def _part(value: float, ticks: Sequence[float], logarithmic: bool) -> float:
    """How far along an axis; 0 at its first tick and 1 at its last."""
    low, high = ticks[0], ticks[-1]
    if logarithmic:
        low, high, value = log10(low), log10(high), log10(value)
    return (value - low) / (high - low)


def _places(names: Sequence[str]) -> Iterator[tuple[int, float]]:
    """Row and x of each name of a legend, from left to right and then down."""
    row, x = 0, float(_LEFT)
    for name in names:
        width = _LEGEND_SIGN + _LETTER * len(name)
        if x > _LEFT and x + width - 18 > _WIDTH:
            row, x = row + 1, float(_LEFT)
        yield row, x
        x += width


def _opening(title: str, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}">'
    )


def _dash(look: int) -> str:
    return f' stroke-dasharray="{_DASHES[look]}"' if _DASHES[look] else ""


def _marker(look: int, x: float, y: float, hint: str = "") -> str:
    return f'<path class="m{look}" d="M{x:.1f} {y:.1f}{_MARKERS[look]}">{hint}</path>'


def bar_svg(chart: BarChart) -> str:
    """The bars as an SVG element."""
    return "\n".join(_draw_bars(chart))


def _draw_bars(chart: BarChart) -> Iterator[str]:
    values = [value for bar in chart.bars for value in bar.values if value is not None and isfinite(value)]
    values += [bar.spread[1] for bar in chart.bars if bar.spread is not None]
    ticks = _linear_ticks(max(values, default=1.0))
    each = _NAME_HEIGHT + _BAR_HEIGHT * len(chart.measures) + _BAR_GAP
    top = 34
    bottom = top + each * len(chart.bars) + 4

    def x(value: float) -> float:
        return _MARGIN + (_WIDTH - _MARGIN - _VALUE_WIDTH) * value / ticks[-1]

    yield _opening(chart.title, bottom + _BOTTOM)
    yield f'<text class="title" x="{_MARGIN}" y="20">{escape(chart.title)}</text>'
    for tick in ticks:
        yield f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>'
        yield f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{number(tick)}</text>'
    middle = (x(0) + x(ticks[-1])) / 2
    yield f'<text x="{middle:g}" y="{bottom + 42}" text-anchor="middle">{escape(chart.x_label)}</text>'
    for place, bar in enumerate(chart.bars):
        yield from _draw_bar(chart, bar, top + place * each, x)
    yield "</svg>"


def _draw_bar(chart: BarChart, bar: Bar, top: float, x: Callable[[float], float]) -> Iterator[str]:
    yield f'<text x="{_MARGIN}" y="{top + 15:g}">{escape(bar.name)}</text>'
    if not any(value is not None for value in bar.values):
        yield _note(_MARGIN, top + _NAME_HEIGHT + 11, bar.note or "no value", _NOTE_LETTERS)
        return
    if bar.note:
        at = _MARGIN + _LETTER * len(bar.name) + 12
        yield _note(at, top + 15, bar.note, int((_WIDTH - at - _MARGIN) / _LETTER))
    for place, (measure, value) in enumerate(zip(chart.measures, bar.values, strict=True)):
        if value is None or not isfinite(value):
            continue
        y = top + _NAME_HEIGHT + place * _BAR_HEIGHT
        look, end = bar.style % LOOKS, x(value)
        kind = " second" if place else ""
        yield (
            f'<rect class="bar m{look}{kind}" x="{x(0):.1f}" y="{y:g}" width="{end - x(0):.1f}" '
            f'height="{_BAR_HEIGHT - 2}"><title>{escape(bar.name)}</title></rect>'
        )
        if not place and bar.spread is not None:
            low, high = map(x, bar.spread)
            ends = f"M{low:.1f} {y + 3:g}v7M{high:.1f} {y + 3:g}v7"
            yield f'<path class="whisker" d="{ends}M{low:.1f} {y + 6.5:g}H{high:.1f}"/>'
            end = max(end, high)
        text = " ".join(filter(None, (measure, number(value), chart.unit)))
        yield f'<text x="{end + 6:.1f}" y="{y + 11:g}">{escape(text)}</text>'


def _note(x: float, y: float, text: str, letters: int) -> str:
    shown = text if len(text) <= letters else text[: max(0, letters - 1)] + "…"
    return f'<text class="note" x="{x:g}" y="{y:g}">{escape(shown)}<title>{escape(text)}</title></text>'


def _ticks(values: Sequence[float], logarithmic: bool, top: float | None = None) -> list[float]:
    if logarithmic:
        return _log_ticks(min(values, default=1.0), max(values, default=10.0))
    return _linear_ticks(top or max(values, default=1.0))


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
