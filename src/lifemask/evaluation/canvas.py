"""A page of lines, boxes and words that can be written as SVG text or painted as a picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_PIL_ANCHOR = {"start": "ls", "middle": "ms", "end": "rs"}


@dataclass(frozen=True)
class Line:
    """An open line through points in page px; `dash` is the length of dashes, 0 solid."""

    points: tuple[Point, ...]
    color: str
    width: float = 1.0
    dash: float = 0.0


@dataclass(frozen=True)
class Rectangle:
    """A filled box: left, top, width, height in page px."""

    left: float
    top: float
    width: float
    height: float
    color: str


@dataclass(frozen=True)
class Words:
    """One line of text whose baseline begins, ends or has its middle at `at`."""

    text: str
    at: Point
    size: float = 13.0
    color: str = "#333a45"
    anchor: Anchor = "start"
    bold: bool = False
    upwards: bool = False


Shape = Line | Rectangle | Words


@dataclass
class Canvas:
    """Shapes on a page of `width` x `height` px, u right, v down, in the order they are drawn."""

    width: int
    height: int
    background: str = "#ffffff"
    shapes: list[Shape] = field(default_factory=list)

    def add(self, *shapes: Shape) -> None:
        """Draw on top of what is there."""
        self.shapes.extend(shapes)

    def svg(self) -> str:
        """The page as a complete SVG document; the same page gives the same text."""
        page = f'width="{self.width}" height="{self.height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {page}'
            f' viewBox="0 0 {self.width} {self.height}" font-family="{FONT}">',
            f'<rect {page} fill="{self.background}"/>',
            *(_svg(shape) for shape in self.shapes),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def image(self, scale: float = 2.0) -> Image:
        """The page as an RGB picture, `scale` times its size, edges smoothed."""
        from PIL import Image as Pictures
        from PIL import ImageDraw

        fine = 2 * scale  # painted at twice the size, then halved
        size = (round(self.width * fine), round(self.height * fine))
        picture = Pictures.new("RGB", size, self.background)
        for shape in self.shapes:
            if isinstance(shape, Words):
                _paint_words(picture, shape, fine)
            else:
                _paint(ImageDraw.Draw(picture), shape, fine)
        return picture.resize(
            (round(self.width * scale), round(self.height * scale)), Pictures.Resampling.LANCZOS
        )


def text_width(text: str, size: float) -> float:
    """Width of a line of text in px, for a usual sans serif; an estimate on the wide side."""
    narrow = sum(letter in "iljtf.,:;'|!() " for letter in text)
    return size * (0.6 * (len(text) - narrow) + 0.34 * narrow)


def _svg(shape: Shape) -> str:
    if isinstance(shape, Rectangle):
        return (
            f'<rect x="{_n(shape.left)}" y="{_n(shape.top)}" width="{_n(shape.width)}"'
            f' height="{_n(shape.height)}" fill="{shape.color}"/>'
        )
    if isinstance(shape, Line):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
        gap = _n(shape.dash + shape.width)  # round ends reach half a width into each gap
        dash = f' stroke-dasharray="{_n(shape.dash)} {gap}"' if shape.dash else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{shape.color}"'
            f' stroke-width="{_n(shape.width)}" stroke-linejoin="round"'
            f' stroke-linecap="round"{dash}/>'
        )
    x, y = _n(shape.at[0]), _n(shape.at[1])
    turn = f' transform="rotate(-90 {x} {y})"' if shape.upwards else ""
    weight = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{_n(shape.size)}" fill="{shape.color}"'
        f' text-anchor="{shape.anchor}"{weight}{turn}>{escape(shape.text)}</text>'
    )


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _paint(draw: Any, shape: Line | Rectangle, scale: float) -> None:
    if isinstance(shape, Rectangle):
        left, top = shape.left * scale, shape.top * scale
        right, bottom = left + shape.width * scale - 1, top + shape.height * scale - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), fill=shape.color)
        return
    points = [(x * scale, y * scale) for x, y in shape.points]
    width = max(1, round(shape.width * scale))
    dash, gap = shape.dash * scale, (shape.dash + shape.width) * scale
    for piece in _dashes(points, dash, gap) if shape.dash else [points]:
        draw.line(piece, fill=shape.color, width=width, joint="curve")
        if width > 3:
            for x, y in (piece[0], piece[-1]):
                r = width / 2 - 0.5
                draw.ellipse((x - r, y - r, x + r, y + r), fill=shape.color)


def _dashes(points: list[Point], dash: float, gap: float) -> list[list[Point]]:
    """The pieces of a line that a dash pattern leaves."""
    pieces: list[list[Point]] = [[points[0]]]
    drawn, left = True, dash
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        span = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        walked = 0.0
        while span - walked > left:
            walked += left
            corner = (x0 + (x1 - x0) * walked / span, y0 + (y1 - y0) * walked / span)
            if drawn:
                pieces[-1].append(corner)
            else:
                pieces.append([corner])
            drawn, left = not drawn, gap if drawn else dash
        left -= span - walked
        if drawn:
            pieces[-1].append((x1, y1))
    return [piece for piece in pieces if len(piece) > 1]


def _paint_words(picture: Any, words: Words, scale: float) -> None:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    font, bold = _font(words.size * scale), 0.035 * words.size * scale if words.bold else 0.0
    x, y = words.at[0] * scale, words.at[1] * scale
    if not words.upwards:
        anchor = _PIL_ANCHOR[words.anchor]
        draw = ImageDraw.Draw(picture)
        draw.text((x, y), words.text, words.color, font, anchor, stroke_width=bold)
        return
    width, height = int(font.getlength(words.text)) + 4, round(2 * words.size * scale)
    mask = Pictures.new("L", (width, height), 0)
    ImageDraw.Draw(mask).text((2, height / 2), words.text, 255, font, "ls")
    mask = mask.transpose(Pictures.Transpose.ROTATE_90)
    shift = {"start": width, "middle": width / 2, "end": 0}[words.anchor]
    picture.paste(words.color, (round(x - height / 2), round(y - shift)), mask)


@functools.lru_cache(maxsize=16)
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
