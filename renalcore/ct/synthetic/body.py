"""An abdomen around given kidneys: wall, spine, ribs and pelvis, organs, bowel and vessels, drawn at plausible places.

Nothing here is a patient's: sizes and places are drawn from the usual ranges of adults, and everything is bent by a
smooth random field. The order of painting decides what lies in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from renalcore.ct.steps import Grid
from renalcore.ct.synthetic.canvas import Canvas, SmoothField
from renalcore.ct.synthetic.kidneys import KidneyShape
from renalcore.ct.synthetic.tissue import Tissue

_FAT: Final = (Tissue.FAT,)
_SOFT: Final = (Tissue.FAT, Tissue.WALL, Tissue.FLUID, Tissue.GAS, Tissue.FAECES, Tissue.ORAL_CONTRAST)
_ROUND: Final = 2.4
"""Exponent of the outline: a little squarer than an ellipse."""


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """What is particular to one drawn patient, in mm of `renalcore.ct.synthetic.canvas`.

    Attributes:
        shape: The kidneys.
        seed: Of everything that is drawn.
        half_width_mm: Of the cavity of the abdomen.
        front_mm, back_mm: How far the cavity reaches to the front and to the back of `middle_y_mm`.
        middle_y_mm: Where the cavity is widest.
        wall_mm: Thickness of the muscles at the side.
        fat_mm: Thickness of the fat under the skin at the side, in front and at the back.
        dome_mm: Top of the right and of the left half of the diaphragm.
        perirenal_mm: Thickness of the fat around the kidneys.
        bend_mm: How far things are displaced.
    """

    shape: KidneyShape
    seed: int
    half_width_mm: float
    front_mm: float
    back_mm: float
    middle_y_mm: float
    wall_mm: float
    fat_mm: tuple[float, float, float]
    dome_mm: tuple[float, float]
    perirenal_mm: float
    bend_mm: float


def draw_body(shape: KidneyShape, rng: np.random.Generator) -> Body:
    """A patient with room for the kidneys: a large tumour makes a large abdomen."""
    reach = max(-shape.low_mm[2], shape.high_mm[2])
    fatness = rng.beta(1.6, 2.2)  # 0 lean, 1 obese
    middle_y = -rng.uniform(38, 55)
    back = max(shape.high_mm[1] + rng.uniform(3, 12), 30.0) - middle_y
    front = max(rng.uniform(62, 85) + 60 * fatness, middle_y - shape.low_mm[1] + 12)
    top = float(rng.uniform(115, 165))
    return Body(
        shape,
        int(rng.integers(2**31)),
        half_width_mm=max(reach + rng.uniform(8, 22), rng.uniform(112, 128) + 30 * fatness),
        front_mm=front,
        back_mm=back,
        middle_y_mm=middle_y,
        wall_mm=float(rng.uniform(9, 18)),
        fat_mm=(
            float(4 + 42 * fatness * rng.uniform(0.5, 1)),
            float(5 + 45 * fatness * rng.uniform(0.4, 1)),
            float(6 + 42 * fatness * rng.uniform(0.4, 1)),
        ),
        dome_mm=(top, top - float(rng.uniform(0, 22))),
        perirenal_mm=float(2 + 16 * fatness * rng.uniform(0.5, 1.2)),
        bend_mm=float(rng.uniform(2, 5)),
    )


def paint_body(body: Body, grid: Grid, bend: list[SmoothField]) -> Canvas:
    """Everything but the kidneys and their fat on one grid; the same patient on every grid."""
    rng = np.random.default_rng(body.seed)
    canvas = Canvas(grid, bend, body.bend_mm)
    inside = _wall(canvas, body, rng)
    _back_muscles(canvas, body, rng)
    crest_mm = _bones(canvas, body, rng)
    _solid_organs(canvas, body, rng)
    _bowel(canvas, body, rng)
    _vessels(canvas, body, rng)
    _chest(canvas, body, inside)
    _table(canvas, body, rng)
    _bladder(canvas, body, rng, crest_mm)
    return canvas


def _outline(canvas: Canvas, body: Body, side_mm: float, front_mm: float, back_mm: float) -> NDArray[np.float32]:
    """Below 1 within an outline that lies so far beyond that of the cavity."""
    y = canvas.y - np.float32(body.middle_y_mm)
    depth = np.where(y < 0, np.float32(1 / (body.front_mm + front_mm)), np.float32(1 / (body.back_mm + back_mm)))
    across = np.abs(canvas.x) * np.float32(1 / (body.half_width_mm + side_mm))
    squared: NDArray[np.float32] = across ** np.float32(_ROUND) + np.abs(y * depth) ** np.float32(_ROUND)
    return squared


def _wall(canvas: Canvas, body: Body, rng: np.random.Generator) -> NDArray[np.float32]:
    """Skin, fat, muscle and the cavity; the outline of the cavity, below 1 inside."""
    wall = body.wall_mm
    back = max(48.0, 0.6 * wall + 34)  # the muscles beside the spine
    side_fat, front_fat, back_fat = body.fat_mm
    skin = 2.0
    canvas.paint(
        _outline(canvas, body, wall + side_fat + skin, 0.7 * wall + front_fat + skin, back + back_fat + skin) < 1,
        Tissue.SKIN,
    )
    canvas.paint(_outline(canvas, body, wall + side_fat, 0.7 * wall + front_fat, back + back_fat) < 1, Tissue.SKIN_FAT)
    canvas.paint(_outline(canvas, body, wall, 0.7 * wall, back) < 1, Tissue.MUSCLE)
    # Fat between the layers of the wall at the sides.
    layer = _outline(canvas, body, 0.55 * wall, 0.35 * wall, 0.8 * back)
    canvas.paint((np.abs(layer - 1) < 0.012) & (canvas.y < 20), Tissue.FAT, over=(Tissue.MUSCLE,))
    inside = _outline(canvas, body, 0, 0, 0)
    canvas.paint(inside < 1, Tissue.FAT)
    if rng.random() < 0.5:  # the straight muscles in front are parted
        middle = (np.abs(canvas.x) < rng.uniform(3, 9)) & (canvas.y < body.middle_y_mm - 0.8 * body.front_mm)
        canvas.paint(middle, Tissue.FAT, over=(Tissue.MUSCLE,))
    return inside


def _back_muscles(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    sizes = rng.uniform(0.85, 1.2, 3)
    heights = np.linspace(-260, 260, 14)
    reach = np.abs(canvas.x)
    behind = (canvas.y > 20 + 0.12 * reach) & (reach < 52 + 14 * sizes[0])
    canvas.paint(behind, Tissue.MUSCLE, over=(Tissue.FAT,))  # however deep the cavity, the back is muscle
    canvas.paint(behind & (reach < 1.5), Tissue.FAT, over=(Tissue.MUSCLE,))
    for side in (-1, 1):
        line = np.stack([heights, np.full(14, 50.0), np.full(14, side * 33.0)], axis=1)
        canvas.tube(line, 24 * sizes[0], Tissue.MUSCLE)
        psoas = np.array(
            [[40, 2, 26], [0, 0, 34], [-50, -4, 42], [-110, -22, 52], [-170, -48, 62], [-250, -50, 80]], float
        )
        psoas[:, 2] *= side
        canvas.tube(psoas, np.array([5, 13, 19, 22, 19, 16]) * sizes[1], Tissue.MUSCLE)
        square = np.array([[50, 28, 50], [0, 32, 62], [-70, 30, 75]], float)
        square[:, 2] *= side
        canvas.tube(square, 11 * sizes[2], Tissue.MUSCLE)
        buttock = np.array([[-130, 60, 55], [-190, 55, 90], [-250, 30, 115]], float)
        buttock[:, 2] *= side
        canvas.tube(buttock, np.array([20.0, 34, 32]), Tissue.MUSCLE, over=(Tissue.SKIN_FAT, Tissue.FAT))
        crus = np.array([[110, -22, 14], [50, -20, 16], [-20, -16, 15]], float)
        crus[:, 2] *= side
        canvas.tube(crus, np.array([5.0, 6, 3]), Tissue.MUSCLE)


def _bones(canvas: Canvas, body: Body, rng: np.random.Generator) -> float:
    """Spine, ribs and pelvis; the height of the pelvis' crest in mm."""
    size = rng.uniform(0.9, 1.12)
    height = 34 * size
    offset = rng.uniform(0, height)
    levels = np.arange(-160 + offset, 280, height)
    canvas.tube(np.array([[-165.0, 0, 0], [290, 0, 0]]), 19 * size, Tissue.DISC)
    for z in levels:
        for y in (-4.0, 3.0):
            for x in (-7.0, 7.0):
                canvas.ellipsoid((z, y, x * size), (14 * size, 15 * size, 17 * size), Tissue.CORTICAL_BONE)
        for y in (-4.0, 3.0):
            for x in (-7.0, 7.0):
                canvas.ellipsoid((z, y, x * size), (12.4 * size, 13.3 * size, 15.2 * size), Tissue.MARROW)
        arch = [(z - 4, 18.0, 11.0 * side) for side in (-1, 1)]
        for centre in arch:
            canvas.ellipsoid(centre, (8, 9, 5.5), Tissue.CORTICAL_BONE)
        canvas.ellipsoid((z - 12, 47 * size, 0), (10, 17, 3.6), Tissue.CORTICAL_BONE)
        canvas.ellipsoid((z - 6, 32 * size, 0), (9, 5, 13), Tissue.CORTICAL_BONE)
        canvas.ellipsoid((z - 12, 47 * size, 0), (8, 15, 1.9), Tissue.MARROW)
        for side in (-1, 1):
            canvas.ellipsoid((z - 2, 24 * size, side * 27), (4, 4.5, 16), Tissue.CORTICAL_BONE)
    canvas.tube(np.array([[-170.0, 22 * size, 0], [290, 22 * size, 0]]), 8.0, Tissue.CANAL)
    _ribs(canvas, body, rng)
    return _pelvis(canvas, rng)


def _ribs(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    lowest = rng.uniform(10, 50)
    slope = rng.uniform(55, 95)
    for number in range(9):
        start = lowest + 27 * number
        reach = (0.42, 0.62, 0.85, 0.95)[min(number, 3)] * np.pi  # the two lowest end free
        angles = np.linspace(0.07 * np.pi, reach, 16)  # from the spine around to the front
        widths = np.where(angles < 0.5 * np.pi, body.back_mm + 8, body.front_mm + 3)
        z = start - slope * (angles / np.pi) + np.maximum(angles - 0.72 * np.pi, 0) * 30
        for side in (-1, 1):
            line = np.stack(
                [
                    z,
                    body.middle_y_mm + widths * np.cos(angles),
                    side * (body.half_width_mm + 5) * np.sin(angles) ** 0.85,
                ],
                axis=1,
            )
            bony = line[angles < 0.8 * np.pi]
            canvas.tube(bony, 5.2, Tissue.CORTICAL_BONE)
            canvas.tube(bony, 2.6, Tissue.MARROW)


def _pelvis(canvas: Canvas, rng: np.random.Generator) -> float:
    crest = -float(rng.uniform(95, 135))
    canvas.ellipsoid((crest - 75, 22, 0), (62, 26, 52), Tissue.CORTICAL_BONE)
    canvas.ellipsoid((crest - 75, 22, 0), (59, 22, 48), Tissue.MARROW)
    for side in (-1, 1):
        for depth in np.linspace(0, 1, 12):
            z = crest - 8 - 85 * depth
            wing = np.array(
                [
                    [z, 52 - 15 * depth, 48],
                    [z, 20 - 20 * depth, 92 - 8 * depth],
                    [z, -28 - 12 * depth, 122 - 18 * depth],
                ]
            )
            wing[:, 2] *= side
            wing[0, 0] += 4
            canvas.tube(wing, 5.5, Tissue.CORTICAL_BONE)
        for depth in np.linspace(0, 1, 12):
            z = crest - 10 - 85 * depth
            wing = np.array(
                [
                    [z, 52 - 15 * depth, 48],
                    [z, 20 - 20 * depth, 92 - 8 * depth],
                    [z, -26 - 12 * depth, 120 - 18 * depth],
                ]
            )
            wing[:, 2] *= side
            canvas.tube(wing, 3.0, Tissue.MARROW)
        canvas.ellipsoid((crest - 130, -15, side * 92), (24, 24, 24), Tissue.CORTICAL_BONE)
        canvas.ellipsoid((crest - 130, -15, side * 92), (21, 21, 21), Tissue.MARROW)
    return crest


def _solid_organs(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    width, front = body.half_width_mm, body.middle_y_mm
    tip = rng.uniform(-45, 25)  # how low the liver reaches
    top = body.dome_mm[0] + 10
    middle, half = (top + tip) / 2, (top - tip) / 2
    cavity = (Tissue.FAT,)
    canvas.ellipsoid(
        (middle, front + 2, -0.55 * width), (half, body.back_mm - 2, 0.48 * width), Tissue.LIVER, over=cavity
    )
    canvas.ellipsoid(
        (middle + 0.2 * half, front - 18, -0.28 * width),
        (0.72 * half, 0.75 * body.front_mm, 0.5 * width),
        Tissue.LIVER,
        over=cavity,
    )
    canvas.ellipsoid(
        (top - 48, front - 0.45 * body.front_mm, 0.15 * width),
        (38, 0.42 * body.front_mm, rng.uniform(0.3, 0.6) * width),
        Tissue.LIVER,
        over=cavity,
    )
    canvas.ellipsoid((top - 75, -34, -16), (26, 22, 20), Tissue.LIVER, over=cavity)  # the caudate lobe
    canvas.ellipsoid(
        (tip + 0.45 * half, front - 0.42 * body.front_mm, -0.42 * width),
        (rng.uniform(15, 34), 17, 16),
        Tissue.BILE,
        over=(*cavity, Tissue.LIVER),
    )
    high = body.dome_mm[1] - rng.uniform(35, 55)
    canvas.ellipsoid(
        (high, front + 0.45 * body.back_mm, 0.72 * width),
        (rng.uniform(38, 60), 0.52 * body.back_mm, rng.uniform(0.2, 0.3) * width),
        Tissue.SPLEEN,
        over=cavity,
    )
    line = np.array([[5, -62, -32], [22, -70, -6], [34, -72, 22], [45, -52, 55], [55, -30, 85]], float)
    line += rng.normal(0, 5, line.shape)
    canvas.tube(line, np.array([14, 10, 9, 10, 8]) * rng.uniform(0.7, 1.15), Tissue.PANCREAS, over=cavity)
    for z, _, x in body.shape.sides:
        side = np.sign(x)
        for lean in (-6, 6):
            limb = np.array(
                [[z + 72, -14, side * 34], [z + 62, -6, side * (38 + lean)], [z + 50, 0, side * (42 + lean)]]
            )
            canvas.tube(limb, 2.6, Tissue.ADRENAL, over=cavity)


def _bowel(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    width, front, y0 = body.half_width_mm, body.front_mm, body.middle_y_mm
    oral = rng.random() < 0.25
    stomach = np.array(
        [
            [105, y0 + 20, 0.5 * width],
            [75, y0 - 15, 0.55 * width],
            [45, y0 - 0.45 * front, 0.35 * width],
            [25, y0 - 0.55 * front, 0.05 * width],
            [22, y0 - 0.4 * front, -0.15 * width],
        ]
    )
    stomach += rng.normal(0, 7, stomach.shape)
    radii = np.array([34, 38, 28, 20, 14]) * rng.uniform(0.5, 1.1)
    canvas.tube(stomach, radii, Tissue.WALL, over=_FAT)
    content = Tissue.ORAL_CONTRAST if oral and rng.random() < 0.6 else Tissue.FLUID
    canvas.tube(stomach, radii - rng.uniform(3, 6), content, over=(Tissue.WALL,), gas=float(rng.uniform(-0.4, 0.9)))
    duodenum = np.array([[20, y0 - 20, -28], [5, -45, -38], [-25, -38, -38], [-35, -36, -10], [-28, -40, 22]], float)
    loops = [(duodenum + rng.normal(0, 4, duodenum.shape), 11.0)]
    fill = rng.uniform(0.3, 1.0)
    loops += [(line, float(rng.uniform(8, 15))) for line in _small_bowel(body, rng, count=round(30 * fill))]
    for line, radius in loops:
        canvas.tube(line, radius, Tissue.WALL, over=_FAT)
    for line, radius in loops:
        kind = rng.random()
        content = Tissue.ORAL_CONTRAST if oral and kind < 0.7 else Tissue.FLUID if kind < 0.6 else Tissue.WALL
        gas = float(rng.uniform(-0.5, 0.5)) if rng.random() < 0.25 else None
        canvas.tube(line, max(radius - rng.uniform(1.8, 4), 2.0), content, over=(Tissue.WALL,), gas=gas)
    colon = [
        np.array(
            [
                [-150, y0 + 10, -0.6 * width],
                [-100, y0 + 18, -0.78 * width],
                [-40, y0 + 12, -0.8 * width],
                [0, y0 - 5, -0.72 * width],
            ]
        ),
        np.array(
            [
                [5, y0 - 15, -0.68 * width],
                [-15, y0 - 0.72 * front, -0.35 * width],
                [-30, y0 - 0.8 * front, 0.05 * width],
                [5, y0 - 0.72 * front, 0.45 * width],
                [55, y0 - 5, 0.74 * width],
            ]
        ),
        np.array(
            [
                [50, y0 + 15, 0.78 * width],
                [-20, y0 + 24, 0.82 * width],
                [-90, y0 + 20, 0.8 * width],
                [-150, y0 + 5, 0.62 * width],
                [-190, y0 + 15, 0.3 * width],
                [-230, 10, 0],
            ]
        ),
    ]
    for line in colon:
        line = line + rng.normal(0, 6, line.shape)
        many = np.linspace(0, len(line) - 1, 8 * len(line))
        folded = np.stack([np.interp(many, np.arange(len(line)), line[:, axis]) for axis in range(3)], axis=1)
        radius = rng.uniform(13, 25) * (1 + 0.22 * np.sin(2.3 * np.arange(len(many))))
        canvas.tube(folded, radius, Tissue.WALL, over=_FAT)
        content = Tissue.FAECES if rng.random() < 0.65 else Tissue.FLUID
        gas = float(rng.uniform(-0.6, 0.9)) if rng.random() < 0.7 else None
        canvas.tube(folded, radius - rng.uniform(1.8, 3), content, over=(Tissue.WALL,), gas=gas)


def _small_bowel(body: Body, rng: np.random.Generator, *, count: int) -> Iterator[NDArray[np.float64]]:
    """Lines that wander about in the front half of the cavity."""
    for _ in range(count):
        place = np.array(
            [
                rng.uniform(-190, 25),
                body.middle_y_mm - rng.uniform(-0.1, 0.7) * body.front_mm,
                rng.uniform(-0.6, 0.7) * body.half_width_mm,
            ]
        )
        heading = rng.normal(0, 1, 3)
        line = [place]
        for _ in range(int(rng.integers(5, 11))):
            heading += rng.normal(0, 0.7, 3)
            place = place + 18 * heading / np.linalg.norm(heading)
            home = np.array([-80, body.middle_y_mm - 0.35 * body.front_mm, 0.05 * body.half_width_mm])
            heading += 0.006 * (home - place)
            place[1] = np.clip(place[1], body.middle_y_mm - 0.82 * body.front_mm, body.middle_y_mm + 22)
            place[2] = np.clip(place[2], -0.75 * body.half_width_mm, 0.75 * body.half_width_mm)
            line.append(place)
        yield np.array(line)


def _vessels(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    calibre = rng.uniform(0.85, 1.25)
    aorta = np.array([[290, -20, 16], [150, -26, 12], [60, -32, 9], [0, -32, 7], [-85, -34, 4]], float)
    aorta[:, 1:] += rng.normal(0, 3, (5, 2))
    cava = np.array([[150, -44, -22], [80, -38, -24], [20, -32, -24], [-40, -30, -22], [-92, -30, -14]], float)
    cava[:, 1:] += rng.normal(0, 3, (5, 2))
    branches: list[tuple[NDArray[np.float64], float, Tissue]] = []
    for side in (-1, 1):
        legs = np.array([[-85, -34, 4], [-120, -22, side * 26], [-160, 0, side * 48], [-230, -45, side * 75]], float)
        branches.append((legs, 5.5 * calibre, Tissue.ARTERY))
        branches.append((legs + np.array([0, 10, -4]), 6.5 * calibre, Tissue.VEIN))
    for z, y, x in body.shape.sides:
        side = np.sign(x)
        hilum = np.array([z, y - 8, x - side * 12])
        beside = np.array([z + 6, -22, side * 34])
        branches.append(
            (
                np.array([hilum + np.array([-3, -4, 0]), beside + np.array([-4, -10, 0]), [z * 0.5, -36, -20.0]]),
                4.8 * calibre,
                Tissue.VEIN,
            )
        )
        branches.append((np.array([hilum, beside, [z * 0.5 + 8, -30, 6.0]]), 2.6 * calibre, Tissue.ARTERY))
        ureter = np.array(
            [hilum + np.array([-6, -6, 0]), [z - 70, -22, side * 42], [-120, -36, side * 40], [-220, -20, side * 45]]
        )
        branches.append((ureter, 1.9, Tissue.URINE))
    portal = np.array([[-60, -62, 4], [0, -64, -2], [25, -62, -10], [60, -58, -34], [85, -55, -62]], float)
    branches.append((portal, 5.8 * calibre, Tissue.PORTAL_VEIN))
    branches.append((np.array([[25.0, -62, -10], [36, -60, 30], [50, -26, 82]]), 3.8 * calibre, Tissue.PORTAL_VEIN))
    branches.append((np.array([[38.0, -40, 8], [10, -58, 8], [-70, -64, 2]]), 3.4 * calibre, Tissue.ARTERY))
    branches.append((np.array([[44.0, -38, 8], [52, -58, 4], [50, -60, -28]]), 3.0 * calibre, Tissue.ARTERY))
    for _ in range(int(rng.integers(8, 16))):  # in the mesentery
        start = np.array([-10.0, -66, 3]) + rng.normal(0, 8, 3)
        end = np.array(
            [rng.uniform(-150, 20), body.middle_y_mm - rng.uniform(0.1, 0.6) * body.front_mm, rng.uniform(-90, 100)]
        )
        line = np.array([start, (start + end) / 2 + rng.normal(0, 12, 3), end])
        branches.append(
            (line, float(rng.uniform(1.2, 2.4)), Tissue.ARTERY if rng.random() < 0.4 else Tissue.PORTAL_VEIN)
        )
    for line, radius, tissue in branches:
        canvas.tube(line, radius, tissue, over=(*_SOFT, Tissue.PANCREAS, Tissue.LIVER))
    canvas.tube(aorta, np.array([12.5, 12, 10.5, 9.5, 8.5]) * calibre, Tissue.ARTERY)
    canvas.tube(cava, np.array([13, 12, 11, 10.5, 9.5]) * calibre, Tissue.VEIN)
    if rng.random() < 0.4:  # chalk in the wall of the aorta
        for _ in range(int(rng.integers(2, 12))):
            z = rng.uniform(-85, 120)
            angle = rng.uniform(0, 2 * np.pi)
            centre = (
                z,
                np.interp(z, aorta[::-1, 0], aorta[::-1, 1]) + 9 * np.sin(angle),
                np.interp(z, aorta[::-1, 0], aorta[::-1, 2]) + 9 * np.cos(angle),
            )
            canvas.ellipsoid(
                centre, rng.uniform(1.2, 3.5, 3).tolist(), Tissue.CORTICAL_BONE, over=(Tissue.ARTERY, Tissue.FAT)
            )
    for _ in range(12):  # in the liver
        start = np.array([80.0, -52, -45]) + rng.normal(0, 12, 3)
        end = start + rng.normal(0, 1, 3) * [35, 35, 45]
        vein = Tissue.VEIN if rng.random() < 0.5 else Tissue.PORTAL_VEIN
        canvas.tube(
            np.array([start, (start + end) / 2 + rng.normal(0, 8, 3), end]),
            np.array([4, 2.5, 1.4]),
            vein,
            over=(Tissue.LIVER,),
        )


def _chest(canvas: Canvas, body: Body, inside: NDArray[np.float32]) -> None:
    """Lungs above the diaphragm, which falls off towards the wall, and the heart."""
    top = np.where(canvas.x < 0, np.float32(body.dome_mm[0]), np.float32(body.dome_mm[1]))
    lean = np.clip((canvas.y - np.float32(body.middle_y_mm)) / np.float32(body.back_mm), -0.6, 1.0)
    above = canvas.z - (top - (62 + 38 * lean) * np.clip(inside, 0, 1.1) ** 2)
    lungs = (above > 0) & (inside < 0.985) & (np.hypot(canvas.x / 34, (canvas.y + 8) / 44) > 1)
    soft = (*_SOFT, Tissue.LIVER, Tissue.SPLEEN, Tissue.BILE)
    canvas.paint(lungs, Tissue.LUNG, over=soft)
    canvas.paint((above > -2.5) & (above <= 0) & (inside < 1), Tissue.MUSCLE, over=(Tissue.FAT,))
    low = min(body.dome_mm) - 8
    canvas.ellipsoid(
        (low + 52, body.middle_y_mm - 0.35 * body.front_mm, 22), (46, 42, 55), Tissue.HEART, over=(*_SOFT, Tissue.LUNG)
    )


def _table(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """The top of the table below the patient's back, sometimes hollow."""
    below = body.middle_y_mm + body.back_mm + 48 + body.fat_mm[2] + 2 + rng.uniform(2, 14)
    origin = canvas.grid.affine[:3, 3]
    y, x = (origin[k] + canvas.grid.affine[k, k] * np.arange(canvas.grid.shape[2 - k]) for k in (1, 0))
    curve = below - np.float32(rng.uniform(0, 0.0012)) * x[None, :] ** 2
    half = rng.uniform(190, 260)
    for depth in (0.0, float(rng.uniform(15, 60))):
        line = (np.abs(y[:, None] - curve - depth) < rng.uniform(1.5, 3)) & (np.abs(x[None, :]) < half)
        canvas.paint(np.broadcast_to(line, canvas.tissues.shape), Tissue.TABLE, over=(Tissue.AIR,))


def _bladder(canvas: Canvas, body: Body, rng: np.random.Generator, crest_mm: float) -> None:
    """Behind the front wall between the hips, 40 to 650 ml; a full one rises, and what lies there gives way."""
    radii = rng.uniform(0.55, 1.2) * np.array([38, 40, 44]) * rng.uniform(0.9, 1.1, 3)
    front = max(-55.0, body.middle_y_mm - body.front_mm + 10 + radii[1])
    centre = (crest_mm - 150 + radii[0], front, rng.uniform(-8, 8))
    canvas.ellipsoid(centre, (radii + rng.uniform(2, 5)).tolist(), Tissue.WALL, over=_SOFT)
    canvas.ellipsoid(centre, radii.tolist(), Tissue.BLADDER, over=_SOFT)
