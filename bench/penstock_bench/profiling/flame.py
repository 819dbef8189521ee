"""A flame graph as one SVG file, without scripts: colours are layers, and a tip tells each box's name and time.

Wide is expensive; what is called stands below its caller. Boxes too narrow to see are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from penstock_bench.plots import COLOURS
from penstock_bench.profiling.layers import ORDER
from penstock_bench.profiling.shares import Shares
from penstock_bench.profiling.stacks import Frame

_WIDTH, _ROW, _TOP, _MARGIN, _LETTER = 1400, 18, 64, 10, 6.6
_NARROWEST = 0.0007
"""The part of the width below which there is no box."""
_LEGEND_STEP = 98
_STARTING = ("penstock_server/cli/", "penstock_server/app/")
_COLOUR_OF = dict(zip(ORDER, (*COLOURS, "#5b7f2b", "#b4a99a", "#30475e", "#d0d0d0"), strict=True))


@dataclass(slots=True)
class _Node:
    name: str
    share: float = 0.0
    layers: dict[str, float] = field(default_factory=dict[str, float])
    children: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])

    @property
    def layer(self) -> str:
        """The one that most of its time is for."""
        return max(self.layers, key=lambda name: self.layers[name])


def flame_graph(title: str, shares: Shares, cpu: float) -> str:
    """The picture. `cpu`: seconds that a request costs in all, for the tips."""
    root = _tree(shares)
    height = _TOP + _ROW * (_depth(root) + 1) + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'font-family="monospace" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="22" font-size="15" font-family="sans-serif">{escape(title)}</text>',
        *_legend(shares),
        *_boxes(root, 0.0, 0, cpu),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _tree(shares: Shares) -> _Node:
    root = _Node("all")
    for each in shares.stacks:
        names = [each.stack.thread_name or "thread", *map(str, _inner(each.stack.frames))]
        node = root
        for name in ("", *names):
            node = node.children.setdefault(name, _Node(name)) if name else root
            node.share += each.share
            node.layers[each.layer] = node.layers.get(each.layer, 0.0) + each.share
    return root


def _inner(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Without the command line that started it all, which is in every stack and costs nothing."""
    outer = [place for place, frame in enumerate(frames) if any(part in frame.file for part in _STARTING)]
    return frames[outer[-1] + 1 :] if outer else frames


def _depth(node: _Node) -> int:
    return max((1 + _depth(child) for child in node.children.values() if child.share >= _NARROWEST), default=0)


def _boxes(node: _Node, left: float, depth: int, cpu: float) -> Iterator[str]:
    if node.share < _NARROWEST or not node.layers:
        return
    wide = _WIDTH - 2 * _MARGIN
    x, y, width = _MARGIN + wide * left, _TOP + _ROW * depth, wide * node.share
    tip = f"{node.name}: {1e6 * cpu * node.share:.1f} us of a request, {node.share:.1%} ({node.layer})"
    letters = int((width - 6) / _LETTER)
    text = node.name if len(node.name) <= letters else node.name[: letters - 1] + "…" if letters > 3 else ""
    yield (
        f'<g><title>{escape(tip)}</title><rect x="{x:.1f}" y="{y}" width="{max(0.4, width - 0.6):.1f}" '
        f'height="{_ROW - 1}" fill="{_colour(node.layer)}" fill-opacity=".55"/>'
        f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(text)}</text></g>'
    )
    for child in sorted(node.children.values(), key=lambda each: -each.share):
        yield from _boxes(child, left, depth + 1, cpu)
        left += child.share


def _legend(shares: Shares) -> Iterator[str]:
    for place, layer in enumerate(shares.layers):
        x = _MARGIN + place * _LEGEND_STEP
        yield f'<rect x="{x}" y="36" width="12" height="12" fill="{_colour(layer)}" fill-opacity=".55"/>'
        yield f'<text x="{x + 16}" y="46">{escape(layer)}</text>'


def _colour(layer: str) -> str:
    return _COLOUR_OF[layer]
