"""The plot of growth.py: panels side by side, each with operations per second over something that grows, as one SVG that needs nothing
else. It has no background, and its greys and colours can be read on a light page and on a dark one.
"""

import math
from xml.sax.saxutils import escape

GREY = "#7f7f7f"
# Colour and marker, so that nobody depends on telling the colours apart.
STYLES = {"set": ("#d97706", "circle"), "get": ("#3b82f6", "square")}
WIDTH, HEIGHT = 960, 320
LEFT, TOP, BOTTOM, RIGHT = 50, 66, 264, 16
# Between the edge of a panel and the first and last marker.
MARGIN = 16


class Panel:
    """One set of axes. `lines` has for each operation the points (x, lowest, median, highest); `names` labels some values of x."""

    def __init__(self, title, axis, lines, names, logarithmic=False):
        self.title, self.axis, self.lines, self.names, self.logarithmic = title, axis, lines, names, logarithmic
        self.xs = sorted({x for points in lines.values() for x, *_ in points})
        values = [value for points in lines.values() for _, *rest in points for value in rest]
        self.bottom, self.top, self.ticks = decades(values) if logarithmic else steps(values)

    def x(self, value):
        first, last = math.log(self.xs[0]), math.log(self.xs[-1])
        share = (math.log(value) - first) / (last - first) if last > first else 0.5
        return self.left + MARGIN + share * (self.right - self.left - 2 * MARGIN)

    def y(self, value):
        if self.logarithmic:
            share = math.log(max(value, self.bottom) / self.bottom) / math.log(self.top / self.bottom)
        else:
            share = value / self.top
        return BOTTOM - share * (BOTTOM - TOP)

    def draw(self, left, right):
        """The SVG elements of this panel between two edges."""
        self.left, self.right = left + LEFT, right - RIGHT
        yield text(self.left, TOP - 14, self.title, weight="bold", size=13)
        for value in self.ticks:
            yield line(self.left, self.y(value), self.right, self.y(value), GREY, 1 if value == self.bottom else 0.3)
            yield text(self.left - 6, self.y(value) + 4, short(value), anchor="end")
        for value in self.xs:
            yield line(self.x(value), BOTTOM, self.x(value), BOTTOM + 4, GREY)
            if value in self.names:
                yield text(self.x(value), BOTTOM + 19, self.names[value], anchor="middle")
        yield text((self.left + self.right) / 2, BOTTOM + 40, self.axis, anchor="middle")
        for operation, points in self.lines.items():
            yield from self.draw_line(operation, sorted(points))

    def draw_line(self, operation, points):
        colour, shape = STYLES[operation]
        path = " ".join(f"{self.x(x):.1f},{self.y(middle):.1f}" for x, _, middle, _ in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, lowest, middle, highest in points:
            if highest > lowest:
                yield line(self.x(x), self.y(lowest), self.x(x), self.y(highest), colour)
            yield marker(self.x(x), self.y(middle), colour, shape)


def decades(values):
    """Bottom, top and ticks of a logarithmic axis."""
    first = math.floor(math.log10(max(min(values), 1)))
    last = max(math.ceil(math.log10(max(values))), first + 1)
    return 10 ** first, 10 ** last, [10 ** power for power in range(first, last + 1)]


def steps(values):
    """Bottom, top and ticks of an axis that begins at 0: at most six steps of a round size."""
    highest = max(max(values), 1)
    size = next(size for power in range(20) for size in (10 ** power, 2 * 10 ** power, 5 * 10 ** power) if size * 6 >= highest)
    count = math.ceil(highest / size)
    return 0, count * size, [step * size for step in range(count + 1)]


def short(value):
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def text(x, y, content, anchor="start", weight="normal", size=12):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{GREY}">'
            f"{escape(content)}</text>")


def line(x1, y1, x2, y2, colour, opacity=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-opacity="{opacity}"/>'


def marker(x, y, colour, shape):
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}"/>'


def legend():
    x = LEFT
    for operation, (colour, shape) in STYLES.items():
        yield f'<line x1="{x}" y1="18" x2="{x + 28}" y2="18" stroke="{colour}" stroke-width="2"/>'
        yield marker(x + 14, 18, colour, shape)
        yield text(x + 34, 22, operation.upper(), size=13)
        x += 84
    yield text(x, 22, "operations per second: medians, and from the slowest to the fastest run", size=13)


def svg(panels):
    """The whole picture."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"'
             ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
             "<title>Operations per second as keys, connections and values grow</title>", *legend()]
    width = WIDTH / len(panels)
    for position, panel in enumerate(panels):
        parts += panel.draw(position * width, (position + 1) * width)
    return "\n".join([*parts, "</svg>", ""])
