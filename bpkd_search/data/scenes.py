"""Miniature street scenes, painted in numpy, for the synthetic data set.

Back to front: sky, buildings, ground, trees, wires and poles, signs, vehicles, then light, blur and noise.
Colours of different classes overlap on purpose (grey walls, grey road, grey cars; brick walls and autumn
trees), so that texture and context decide. Only uniform draws, +, -, *, / and comparisons are used:
transcendental functions may differ in the last bit between machines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpkd_search.data.base import IGNORE_INDEX, RGB

CLASSES: dict[str, RGB] = {
    "sky": (70, 130, 180),
    "building": (70, 70, 70),
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "tree": (107, 142, 35),
    "pole": (190, 190, 190),
    "sign": (220, 220, 0),
    "vehicle": (0, 0, 142),
}
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, SIGN, VEHICLE = range(len(CLASSES))

WALLS = ((150, 150, 148), (150, 88, 70), (188, 174, 142), (98, 116, 92), (116, 118, 126), (196, 200, 206))
CROWNS = ((62, 92, 48), (84, 112, 56), (104, 112, 60), (144, 96, 56))
PAINTS = ((104, 104, 108), (62, 64, 70), (196, 198, 200), (150, 40, 40), (52, 78, 138), (168, 152, 112))
PLATES = ((178, 44, 44), (44, 74, 160), (204, 182, 52), (206, 206, 206))

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


class Canvas:
    """A scene being painted: float image [H, W, 3] in 0..255, label [H, W], random generator."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        """Start with an empty scene and the noise that all its textures share."""
        self.rng, self.height, self.width = rng, height, width
        self.unit = height / 96  # sizes below are in pixels at height 96
        self.image = np.zeros((height, width, 3), dtype=np.float32)
        self.label = np.full((height, width), SKY, dtype=np.uint8)
        self.grain = 2 * rng.random((height, width), dtype=np.float32) - 1
        self.blobs = smooth_noise(rng, height, width, max(2, round(3 * self.unit)))
        self.horizon = round(self.between(0.40, 0.52) * height)

    def between(self, low: float, high: float) -> float:
        """Draw uniformly from [low, high)."""
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        """Draw True with the given probability."""
        return float(self.rng.random()) < probability

    def pick(self, colours: tuple[RGB, ...]) -> Array:
        """Draw one of the colours, up to 18 % lighter or darker and slightly tinted."""
        base = np.array(colours[int(self.rng.integers(len(colours)))], dtype=np.float32)
        tint = 8 * (2 * self.rng.random(3, dtype=np.float32) - 1)
        return np.asarray(base * np.float32(self.between(0.82, 1.18)) + tint, dtype=np.float32)

    def paint(self, class_id: int, box: Box, colour: Array, mask: Mask | None = None, shade: Array | float = 1) -> None:
        """Fill a box, or the part of it where `mask` is true, with colour times shade."""
        where = box.full() if mask is None else mask
        tint = np.broadcast_to(np.asarray(shade, dtype=np.float32), where.shape)
        np.copyto(self.image[box.rows, box.columns], colour * tint[..., None], where=where[..., None])
        np.copyto(self.label[box.rows, box.columns], np.uint8(class_id), where=where)

    def ignore_rim(self, box: Box, mask: Mask) -> None:
        """Mark the outermost pixels of an object as ignored, as for an unclear outline."""
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        self.label[box.rows, box.columns][mask & ~inner] = IGNORE_INDEX


class Box:
    """A rectangle clipped to the canvas, with the coordinates of its pixels."""

    def __init__(self, canvas: Canvas, top: float, bottom: float, left: float, right: float) -> None:
        """Round the sides to whole pixels and clip them."""
        t, b = (min(max(round(v), 0), canvas.height) for v in (top, bottom))
        s, e = (min(max(round(v), 0), canvas.width) for v in (left, right))
        self.rows, self.columns = slice(t, b), slice(s, e)
        self.y = np.arange(t, b, dtype=np.float32)[:, None]
        self.x = np.arange(s, e, dtype=np.float32)[None, :]

    def full(self) -> Mask:
        """Return a mask that covers the box."""
        return np.ones((self.y.size, self.x.size), dtype=np.bool_)

    def of(self, frame: Array) -> Array:
        """Return the box's part of a frame-sized array."""
        return frame[self.rows, self.columns]

    def ellipse(self, y: float, x: float, ry: float, rx: float) -> Array:
        """Return, per pixel, the squared distance from (y, x) in units of the radii (below 1 is inside)."""
        dy, dx = (self.y - np.float32(y)) / np.float32(ry), (self.x - np.float32(x)) / np.float32(rx)
        return np.asarray(dy * dy + dx * dx, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> Array:
    """Draw noise in [-1, 1], [height, width], smooth over about `cell` pixels (bilinear lattice)."""
    lattice = 2 * rng.random((height // cell + 2, width // cell + 2), dtype=np.float32) - 1
    y, x = np.arange(height), np.arange(width)
    v = ((y % cell).astype(np.float32) / np.float32(cell))[:, None]
    u = ((x % cell).astype(np.float32) / np.float32(cell))[None, :]
    rows = lattice[y // cell] * (1 - v) + lattice[y // cell + 1] * v
    return np.asarray(rows[:, x // cell] * (1 - u) + rows[:, x // cell + 1] * u, dtype=np.float32)


def paint_sky(c: Canvas) -> None:
    """Paint a sky from blue to overcast, paler towards the horizon, with clouds."""
    box = Box(c, 0, c.height, 0, c.width)
    colour = c.pick(((128, 166, 212), (196, 202, 208), (164, 186, 212)))
    clouds = smooth_noise(c.rng, c.height, c.width, max(4, round(14 * c.unit)))
    c.paint(SKY, box, colour, shade=0.92 + 0.16 * box.y / np.float32(c.horizon) + 0.08 * clouds)


def paint_buildings(c: Canvas) -> None:
    """Paint a row of facades with window grids, some with gaps between them."""
    left = -c.between(0, 12) * c.unit
    while left < c.width:
        right = left + c.between(14, 34) * c.unit
        if c.chance(0.9):
            top = c.horizon * c.between(0.1, 0.75)
            box = Box(c, top, c.horizon + 3 * c.unit, left, right)
            wall = c.pick(WALLS)
            c.paint(BUILDING, box, wall, shade=1 + 0.05 * box.of(c.grain))
            pitch_y, pitch_x = (max(3, round(c.between(5, 9) * c.unit)) for _ in range(2))
            rows = (box.y - round(top)) % pitch_y >= pitch_y // 2
            window = rows & ((box.x - round(left)) % pitch_x >= pitch_x // 2)
            glass = c.pick(((60, 66, 76), (150, 170, 190), (44, 44, 50)))
            c.paint(BUILDING, box, glass, mask=window, shade=1 + 0.2 * box.of(c.blobs))
        left = right + (c.between(2, 10) * c.unit if c.chance(0.25) else 0)


def paint_ground(c: Canvas) -> None:
    """Paint pavement with joints on both sides of a road that runs to a vanishing point."""
    box = Box(c, c.horizon, c.height, 0, c.width)
    depth = (box.y - c.horizon + 1) / np.float32(c.height - c.horizon)
    vanish = c.between(0.3, 0.7) * c.width
    joints = ((box.x - vanish) / (depth + np.float32(0.15)) / np.float32(9 * c.unit)) % 1 < 0.12
    grain = box.of(c.grain)
    c.paint(
        PAVEMENT,
        box,
        c.pick(((136, 132, 126), (116, 114, 112), (148, 136, 122))),
        shade=1 + 0.09 * grain - 0.14 * joints,
    )
    near_left, near_right = vanish - c.between(0.4, 0.9) * c.width, vanish + c.between(0.4, 0.9) * c.width
    start, end = (vanish + (near - vanish) * (0.05 + 0.95 * depth) for near in (near_left, near_right))
    road = (box.x >= start) & (box.x < end)
    c.paint(ROAD, box, c.pick(((94, 94, 98), (112, 110, 108), (78, 80, 86))), road, 1 + 0.04 * grain)
    centre, half = (start + end) / 2, 0.012 * (end - start)
    dash = (np.abs(box.x - centre) < half) & ((np.float32(6) / (depth + np.float32(0.1))) % 2 < 1) & road
    c.paint(ROAD, box, np.full(3, 205, dtype=np.float32), dash)


def paint_tree(c: Canvas) -> None:
    """Paint a trunk and a ragged crown."""
    x, foot = c.between(0, c.width), c.horizon + c.between(2, 14) * c.unit
    ry, rx = c.between(8, 17) * c.unit, c.between(6, 14) * c.unit
    y = foot - ry - c.between(4, 12) * c.unit
    trunk = c.between(0.6, 1.5) * c.unit
    c.paint(TREE, Box(c, y, foot, x - trunk, x + trunk + 0.5), c.pick(((86, 68, 54), (96, 90, 82))))
    box = Box(c, y - 1.4 * ry, y + 1.4 * ry, x - 1.4 * rx, x + 1.4 * rx)
    if box.full().size == 0:
        return
    blobs = box.of(c.blobs)
    crown = box.ellipse(y, x, ry, rx) + 0.55 * blobs + 0.15 * box.of(c.grain) < 1
    c.paint(TREE, box, c.pick(CROWNS), crown, 0.95 + 0.28 * blobs + 0.18 * box.of(c.grain))
    if c.chance(0.3):
        c.ignore_rim(box, crown)


def paint_pole(c: Canvas, x: float, top: float, foot: float, width: int) -> None:
    """Paint a thin upright of 1 to 3 pixels (in a scene of height 96)."""
    pixels = max(1, round(width * c.unit))
    box = Box(c, top, foot, round(x), round(x) + pixels)
    metal = c.pick(((92, 92, 94), (126, 124, 120), (66, 60, 56)))
    c.paint(POLE, box, metal, shade=1 + 0.06 * box.of(c.grain))


def paint_wire(c: Canvas, left: float, right: float, height: float, sag: float) -> None:
    """Paint a wire between two poles: a sagging, half-transparent line of class pole."""
    s, e = max(0, round(left)), min(c.width, round(right))
    x = np.arange(s, e)
    t = (x - left) / max(right - left, 1)
    y = np.clip(np.rint(height + 4 * sag * t * (1 - t)), 0, c.height - 1).astype(np.int64)
    for row in range(max(1, round(0.8 * c.unit))):
        rows = np.minimum(y + row, c.height - 1)
        c.image[rows, x] = 0.3 * c.image[rows, x] + 0.7 * 52
        c.label[rows, x] = POLE


def paint_street_furniture(c: Canvas) -> None:
    """Paint lamp posts in a row, sometimes with wires, and signs on thin poles."""
    gap, height = c.between(30, 48) * c.unit, c.horizon * c.between(0.08, 0.4)
    xs = np.arange(c.between(0, 30) * min(c.unit, c.width / 40), c.width, gap).tolist()
    if c.chance(0.6):
        for line in range(int(c.rng.integers(1, 3))):
            for left in (-gap + xs[0], *xs):
                paint_wire(c, left, left + gap, height + (2 + 4 * line) * c.unit, c.between(1.5, 5) * c.unit)
    thickness = int(c.rng.integers(1, 4))
    for x in xs:
        paint_pole(c, x, height, c.horizon + c.between(4, 10) * c.unit, thickness)
    for _ in range(int(c.rng.integers(1, 4))):
        x, y = c.between(0.03, 0.97) * c.width, c.horizon - c.between(2, 16) * c.unit
        r = c.between(2.5, 7) * c.unit
        paint_pole(c, x, y, c.horizon + c.between(4, 16) * c.unit, 1)
        box = Box(c, y - r, y + r + 1, x - r, x + r + 1)
        round_plate = box.ellipse(y, x, r, r) <= 1 if c.chance(0.6) else None
        c.paint(SIGN, box, c.pick(PLATES), round_plate)
        if c.chance(0.7):
            c.paint(SIGN, box, c.pick(((214, 214, 212),)), box.ellipse(y, x, 0.45 * r, 0.6 * r) <= 1)


def paint_vehicle(c: Canvas, x: float, near: float) -> None:
    """Paint a car seen from behind or the side: body, cabin, glass, wheels; `near` in 0..1 sets its size."""
    foot = c.horizon + (3 + 34 * near) * c.unit
    tall, wide = (6 + 14 * near) * c.unit, (8 + 24 * near) * c.unit * c.between(0.75, 1.2)
    box = Box(c, foot - tall, foot + 1, x - wide / 2, x + wide / 2)
    if box.full().size == 0:
        return
    up = (np.float32(foot) - box.y) / np.float32(tall)  # 0 at the wheels, 1 at the roof
    side = np.abs(box.x - np.float32(x)) / np.float32(wide / 2)
    cabin = (up > 0.5) & (side < 0.98 - 0.6 * (up - 0.5))
    body = ((up > 0.1) & (up <= 0.55) & (side <= 1)) | cabin
    wheels = (up <= 0.22) & (side > 0.5) & (side < 0.82)
    c.paint(VEHICLE, box, c.pick(PAINTS), body | wheels, 0.9 + 0.2 * up + 0.03 * box.of(c.grain))
    glass = cabin & (up > 0.58) & (up < 0.92) & (side < 0.7)
    c.paint(VEHICLE, box, c.pick(((52, 58, 68), (96, 110, 124))), glass)
    c.paint(VEHICLE, box, np.full(3, 34, dtype=np.float32), wheels)
    if c.chance(0.5):
        c.ignore_rim(box, body | wheels)


def paint_hood(c: Canvas) -> None:
    """Paint the hood of the car that carries the camera: an arc along the bottom, ignored."""
    box = Box(c, 0.9 * c.height, c.height, 0, c.width)
    middle, rise = c.between(0.4, 0.6) * c.width, c.between(0.03, 0.08) * c.height
    arc = box.ellipse(c.height, middle, rise, 0.55 * c.width) < 1
    c.paint(IGNORE_INDEX, box, c.pick(PAINTS), arc, 0.8 + 0.1 * box.of(c.blobs))


def expose(c: Canvas) -> Pixels:
    """Shade, blur edges, set exposure and colour cast, add noise. Returns uint8 [H, W, 3]."""
    image = c.image
    if c.chance(0.5):  # a shadow across the street
        box = Box(c, c.horizon, c.height, 0, c.width)
        start, slope = c.between(-0.3, 0.9) * c.width, c.between(-1, 1)
        across = box.x - np.float32(start) - np.float32(slope) * (box.y - c.horizon)
        shadow = (across > 0) & (across < 0.35 * c.width)
        image[box.rows] *= np.where(shadow, np.float32(0.62), np.float32(1))[..., None]
    soft = np.float32(c.between(0.12, 0.25))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[1:-1] * (1 - 2 * soft) + (padded[:-2] + padded[2:]) * soft
    blurred = rows[:, 1:-1] * (1 - 2 * soft) + (rows[:, :-2] + rows[:, 2:]) * soft
    cast = np.float32(c.between(0.7, 1.15)) * (0.95 + 0.1 * c.rng.random(3, dtype=np.float32))
    noise = 2 * c.rng.random(blurred.shape, dtype=np.float32) - 1
    exposed = np.rint(blurred * cast + np.float32(c.between(4, 14)) * noise)
    return np.asarray(np.clip(exposed, 0, 255), dtype=np.uint8)


def street_scene(rng: np.random.Generator, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Paint one scene: image uint8 [height, width, 3] (RGB), label uint8 [height, width] (ids or 255)."""
    c = Canvas(rng, height, width)
    paint_sky(c)
    paint_buildings(c)
    paint_ground(c)
    crowd = c.width / (c.height * 4 / 3)  # wider scenes contain more objects
    for _ in range(round(c.between(1, 5) * crowd)):
        paint_tree(c)
    paint_street_furniture(c)
    count = max(1, round(c.between(1, 5) * crowd))
    for near in sorted(c.between(0, 1) for _ in range(count)):
        paint_vehicle(c, c.between(0.05, 0.95) * c.width, near * near)
    paint_hood(c)
    return expose(c), c.label
