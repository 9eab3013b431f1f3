"""python -m benchmarks.scale: many workers, simulated by the stored costs; draws docs/images/scale.svg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.scale.model import Result
from benchmarks.scale.study import EACH, GROWN, grown, stored
from benchmarks.sides import ROOT

SERVER_CORES = 8
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 320, 70, 50, 20, 130
_LEAST, _MOST = 100.0, 100_000.0  # tasks a second
_STYLES = {1: "#b45309", 16: "#0369a1", 128: "#15803d"}


def draw(results: Mapping[int, Sequence[Result]]) -> str:
    """A chart with both scales logarithmic; each line has its label beside it."""
    lines = [_axis()]
    for each, of_workers in results.items():
        points = [_place(workers, result.rate) for workers, result in zip(GROWN, of_workers, strict=True)]
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        colour = _STYLES[each]
        lines.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        lines.append(f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{colour}">{each} in flight each</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">\n'
        "<title>Tasks a second of 1 to 1,000 workers on one PostgreSQL, simulated</title>\n"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _axis() -> str:
    parts = []
    for workers in GROWN:
        x, _ = _place(workers, _LEAST)
        parts.append(f'<text x="{x:.0f}" y="{_HEIGHT - 28}" text-anchor="middle">{workers:,}</text>')
    for power in range(round(math.log10(_LEAST)), round(math.log10(_MOST)) + 1):
        _, y = _place(1, 10.0**power)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{10**power:,}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}">workers, each on two cores of its own</text>')
    parts.append(f'<text x="{_LEFT + 6}" y="{_TOP - 6}">tasks a second</text>')
    return "\n".join(parts)


def _place(workers: int, rate: float) -> tuple[float, float]:
    across = math.log(workers / GROWN[0]) / math.log(GROWN[-1] / GROWN[0])
    up = math.log(max(rate, _LEAST) / _LEAST) / math.log(_MOST / _LEAST)
    high = _HEIGHT - _BOTTOM - _TOP
    return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - up) * high


def main() -> None:
    results = grown(stored(), SERVER_CORES)
    print("workers  " + "".join(f"{each:>6} each" for each in EACH))
    for index, workers in enumerate(GROWN):
        print(f"{workers:>7,}  " + "".join(f"{results[each][index].rate:>9,.0f}/s" for each in EACH))
    (ROOT / "docs" / "images" / "scale.svg").write_text(draw(results))


if __name__ == "__main__":
    main()
