"""How a scene is drawn: a shape in a colour on a textured background."""

import math
from functools import cache

import numpy as np

from ..runtime.english import with_article

# Signed distances (negative inside) to shapes that fill the unit disc. Unions and intersections by min and max are
# exact near an edge, which is all that antialiasing asks for.


def _circle(x, y):
    return np.hypot(x, y) - 0.88


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.74


def _triangle(x, y):
    return np.maximum(-y, math.sqrt(3) / 2 * np.abs(x) + 0.5 * y) - 0.52


def _star(x, y):
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    # One edge runs from the outer point (1, 0) to the inner corner; folding by the symmetry makes it serve for all ten.
    inner = 0.45
    along_x, along_y = inner * math.cos(sector / 2) - 1, inner * math.sin(sector / 2)
    length = math.hypot(along_x, along_y)
    return (along_y * (radius * np.cos(angle) - 1) - along_x * radius * np.sin(angle)) / length


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)


def _heart(x, y):
    # Two discs that touch on the axis, and below them the wedge between their outer tangents through the tip.
    radius, height = 0.46, 1.25
    along, up = np.abs(x) - radius, y - 0.3
    twice = 2 * math.atan(radius / height)
    edge = math.cos(twice) * along - math.sin(twice) * up - radius
    end = math.sin(twice) * along + math.cos(twice) * up
    return np.minimum(np.hypot(along, up) - radius, np.maximum(np.maximum(edge, end), up))


def _semicircle(x, y):
    return np.maximum(np.hypot(x, y + 0.42) - 0.95, -0.42 - y)


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 0.92, 0.66 - np.hypot(x - 0.6, y))


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "semicircle": _semicircle,
    "crescent": _crescent,
}


PALETTE = {
    "red": (205, 30, 35),
    "green": (35, 150, 55),
    "blue": (30, 70, 205),
    "yellow": (245, 225, 40),
    "orange": (240, 125, 20),
    "purple": (130, 40, 165),
    "white": (240, 240, 240),
    "black": (18, 18, 18),
}


# Textures over coordinates counted in cells, with values in -1..1; `lattice` is (16, 16) uniform random numbers.


def _lines(u):
    """Thin lines at the whole numbers."""
    return np.clip(3 - 14 * np.abs(u - np.round(u)), -0.5, 1)


def _striped(u, v, lattice):
    return np.clip(2 * np.sin(2 * math.pi * (u + 0.7 * v)), -1, 1)


def _checkered(u, v, lattice):
    return np.clip(5 * np.sin(math.pi * u) * np.sin(math.pi * v), -1, 1)


def _dotted(u, v, lattice):
    return np.clip(3 - 9 * np.hypot(u - np.round(u), v - np.round(v)), -0.5, 1)


def _brick(u, v, lattice):
    row = np.floor(v)
    return np.maximum(_lines(v), _lines(0.5 * u + 0.5 * (row % 2)))


def _wavy(u, v, lattice):
    return np.sin(2 * math.pi * (v + 0.35 * np.sin(1.5 * math.pi * u)))


def _grid(u, v, lattice):
    return np.maximum(_lines(0.65 * u), _lines(0.65 * v))


def _speckled(u, v, lattice):
    rows, columns = np.floor(3 * v).astype(int) % 16, np.floor(3 * u).astype(int) % 16
    return np.where(lattice[rows, columns] < 0.2, 1.0, -0.3)


def _plain(u, v, lattice):
    return np.zeros_like(u)


_TEXTURES = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "brick": _brick,
    "wavy": _wavy,
    "grid": _grid,
    "speckled": _speckled,
    "plain": _plain,
}


SHAPES = tuple(_DISTANCES)


COLOURS = tuple(PALETTE)


BACKGROUNDS = tuple(_TEXTURES)


@cache
def _pixel_centres(size):
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    return np.meshgrid(centres, centres)


def _turn(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


# The stretch and the warp set how hard the shapes are, and so how much a shortcut tempts a network. Ruled shapes hold
# no temptation; a warp of 0.13 costs a small network one image in ten and makes hearts hard to name.
_STRETCH = 1.1  # of the shape along one of its axes, at most


_WARP = 0.06  # amplitude, in shape radii


_WAVES = (2, 4)  # frequency of the warp, in radians per shape radius


_RADIUS = (0.45, 0.8)  # of the shape, in half sides


_TONE = (105, 145)  # of the background: with the contrast, it leaves room for white and for black


_CONTRAST = (28, 42)


_NOISE = 18  # standard deviation per pixel and channel


def draw(size, shape, colour, background, rng, *, radius=_RADIUS, turn=2 * math.pi):
    """Draw one scene. Ours.

    The same `rng` state draws the same position, tones and noise whatever the shape, colour and background are, so that
    images that differ in one of them alone can be made; at another `size` all but the noise stays.

    Args:
        size: side of the image in pixels, at least 32.
        shape, colour, background: one of `SHAPES`, of `COLOURS` and of `BACKGROUNDS`.
        rng: `numpy.random.Generator`.
        radius: least and greatest radius of the shape, in half sides, 0..1.
        turn: greatest turn of the shape, in radians.

    Returns:
        (size, size, 3) uint8 array, RGB, 0..255.

    >>> draw(32, "star", "red", "striped", np.random.default_rng(0)).shape
    (32, 32, 3)
    """
    x, y = _pixel_centres(size)
    # Everything is drawn before anything is looked at, so that the names do not shift the stream.
    chance = rng.random(17).tolist()
    tint = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
    lattice = rng.random((16, 16), dtype=np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)

    def between(low, high):
        return low + (high - low) * chance.pop()

    radius = between(*radius)
    # The whole disc around the shape stays in the image.
    left, top = between(radius - 1, 1 - radius), between(radius - 1, 1 - radius)
    u, v = _turn((x - left) / radius, (y - top) / radius, between(0, turn))
    stretch = between(1 / _STRETCH, _STRETCH)
    u, v = u * stretch, v / stretch
    u, v = (
        u + _WARP * np.sin(between(*_WAVES) * v + between(0, 2 * math.pi)),
        v + _WARP * np.sin(between(*_WAVES) * u + between(0, 2 * math.pi)),
    )
    distance = _DISTANCES[shape](u, v) * (radius * size / 2)  # in pixels
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    ink = np.float32(PALETTE[colour]) + between(-15, 15) + 8 * tint[0]

    cells = between(1.7, 2.6)  # in half a side
    u, v = _turn(cells * x + between(0, 8), cells * y + between(0, 8), between(-0.3, 0.3))
    sign = 1 if chance.pop() < 0.5 else -1
    tone = between(*_TONE) + sign * between(*_CONTRAST) * _TEXTURES[background](u, v, lattice)
    paper = tone[..., None] + 12 * tint[1]

    image = paper + cover * (ink - paper) + _NOISE * noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def caption(shape, colour, background):
    """The caption of a scene.

    >>> caption("star", "orange", "striped")
    'a photo of an orange star on a striped background'
    """
    return f"a photo of {with_article(f'{colour} {shape}')} on {with_article(f'{background} background')}"
