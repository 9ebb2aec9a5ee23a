"""Crystals: facets that bend light past the objective, with sharp dark and bright borders.

A convex crystal is the lower envelope of sloping planes (`_facets`); the creases where planes meet are what one sees
as the cross of an envelope or the ridge of a coffin lid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalcore.sediment.synthetic.sheet import Floats, Points, Sheet, centred, corners, packed, ring, rounded, turn

_YELLOW_BROWN = np.array([0.12, 0.32, 0.75])


def _facets(sheet: Sheet, outline: Points, slopes: NDArray[np.float64], height_um: float) -> tuple[Floats, Floats]:
    """A crystal on a convex `outline`: each side rises inwards at its slope until it meets another.

    Args:
        sheet: Where it lies.
        outline: Convex polygon, corners in order.
        slopes: Rise of the facet at each side.
        height_um: Flat top.

    Returns:
        The height in um, 0 outside; and how much higher the next facet would be there: 0 on a crease.
    """
    x, y = sheet.grid()
    height = np.full(sheet.opd_um.shape, np.float32(height_um))
    next_up = np.full(sheet.opd_um.shape, np.float32(np.inf))
    middle = outline.mean(axis=0)
    for start, end, slope in zip(outline, np.roll(outline, -1, axis=0), slopes, strict=True):
        side = end - start
        normal = np.array([-side[1], side[0]]) / (np.linalg.norm(side) + 1e-9)
        if normal @ (middle - start) < 0:
            normal = -normal
        distance = np.float32(normal[0]) * (x - np.float32(start[0])) + np.float32(normal[1]) * (
            y - np.float32(start[1])
        )
        facet = np.float32(slope) * distance
        np.minimum(next_up, np.maximum(height, facet), out=next_up)
        np.minimum(height, facet, out=height)
    return np.maximum(height, 0), next_up - height


def _slab(sheet: Sheet, outline: Points, opd_um: float, edge_um: float = 0.6) -> Floats:
    """A flat plate with steep sides; returns its mask."""
    mask = sheet.filled(outline)
    sheet.opd_um += sheet.domed(mask, edge_um) * np.float32(opd_um)
    return mask


def _rectangle(length_um: float, width_um: float) -> Points:
    a, b = length_um / 2, width_um / 2
    return np.array([[-a, -b], [a, -b], [a, b], [-a, b]])


def _prism(length_um: float, width_um: float, tip_um: float) -> Points:
    """A long hexagon: parallel sides and pointed ends."""
    a, b = length_um / 2, width_um / 2
    return np.array([[-a, 0], [-a + tip_um, -b], [a - tip_um, -b], [a, 0], [a - tip_um, b], [-a + tip_um, b]])


def calcium_oxalate(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Calcium oxalate: bright envelope with a cross (dihydrate), or oval, dumbbell and hempseed (monohydrate)."""
    form = rng.choice(["envelope", "oval", "dumbbell"], p=[0.74, 0.15, 0.11])
    if form == "envelope":
        return _envelope(rng, um_per_px)
    return _monohydrate(rng, um_per_px, dumbbell=form == "dumbbell")


def _envelope(rng: np.random.Generator, um_per_px: float) -> Sheet:
    side = float(np.clip(rng.lognormal(np.log(5), 0.5), 2.4, 24))
    outline = _rectangle(side, side * rng.uniform(0.8, 1))
    outline[:, 0] += outline[:, 1] * rng.normal(0, 0.08)  # seen a little from the side: the square leans
    outline = turn(outline, rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    slope = rng.uniform(0.7, 1.25)
    height, gap = _facets(sheet, outline, np.full(4, slope) * rng.uniform(0.85, 1.15, 4), 99)
    truncated = np.minimum(height, side * slope * rng.uniform(0.35, 0.6))
    sheet.opd_um += truncated * np.float32(rng.uniform(0.16, 0.55) / max(1.0, side / 9))
    sheet.tint((height > 0).astype(np.float32), np.full(3, rng.uniform(0.02, 0.25)) * [1, 0.9, 1.2])
    # the light that the crystal gathers: in a cross along its creases, or in a spot on each face
    cross = np.exp(-((gap / (0.14 * side * slope)) ** 2))
    spots = np.clip(gap / (0.5 * side * slope), 0, 1) ** 2 * np.clip(height / (0.25 * side * slope), 0, 1)
    where = cross if rng.random() < 0.6 else spots
    sheet.tint(where * (height > 0.04 * side), np.full(3, -rng.uniform(0.1, 1.1 if side > 5 else 1.6)))
    return sheet


def _monohydrate(rng: np.random.Generator, um_per_px: float, *, dumbbell: bool) -> Sheet:
    length = float(np.clip(rng.lognormal(np.log(6.5), 0.35), 3.5, 15))
    width = length * rng.uniform(0.5, 0.8)
    theta = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    waist = 1 - (rng.uniform(0.3, 0.5) * np.abs(np.sin(theta)) ** 4 if dumbbell else 0)
    outline = np.stack([length / 2 * np.cos(theta), width / 2 * np.sin(theta) * waist], axis=1)
    angle = rng.uniform(0, np.pi)
    sheet = Sheet.holding(turn(outline, angle), um_per_px)
    mask = sheet.filled(turn(outline, angle))
    body = sheet.domed(mask, 0.45 * width)
    along, across = sheet.turned(0, 0, angle)
    hollow = np.exp(-((along / (0.22 * length)) ** 2) - (across / (0.2 * width)) ** 2)
    sheet.opd_um += body * np.float32(rng.uniform(0.5, 1.0)) * (1 - np.float32(rng.uniform(0.3, 0.8)) * hollow)
    sheet.tint(body, np.full(3, rng.uniform(0, 0.2)))
    sheet.tint(hollow * mask, np.full(3, -rng.uniform(0, 0.5)))
    return sheet


def amorphous(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Amorphous urates or phosphates: a loose heap of fine, dark, yellowish-brown or grey grains without form."""
    spread = rng.uniform(2.5, 18)
    count = int(min(rng.uniform(1.5, 5) * spread**2, 1200)) + 8
    centre = turn(
        rng.normal(0, 1, (count, 2)) * (0.45 * spread, 0.45 * spread * rng.uniform(0.35, 1)), rng.uniform(0, 3)
    )
    knots = np.cumsum(rng.normal(0, 0.22 * spread, (9, 2)), axis=0)  # a string of knots: heaps are never round
    centre = centred(knots[rng.integers(9, size=count)] + centre * rng.uniform(0.08, 0.7, (count, 1)))
    sheet = Sheet.holding(centre, um_per_px)
    dots = sheet.dotted(centre, rng.uniform(0.12, 0.42, count), rng.uniform(0.4, 1, count))
    sheet.opd_um += sheet.softened(dots, rng.uniform(0, 0.25)) * np.float32(rng.uniform(0.12, 0.35))
    colour = np.array([0.5, 0.6, 0.8]) if rng.random() < 0.5 else np.full(3, 0.5)
    sheet.tint(dots, colour * rng.uniform(0.2, 1.3))
    return sheet


def triple_phosphate(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Triple phosphate: colourless prism of 15 to 70 um like a coffin lid, with bevelled ends; rarely a feather."""
    length = float(np.clip(rng.lognormal(np.log(30), 0.45), 12, 80))
    width = length * rng.uniform(0.32, 0.75)
    outline = (
        _prism(length, width, rng.uniform(0.1, 0.3) * length) if rng.random() < 0.45 else _rectangle(length, width)
    )
    slopes = np.full(len(outline), rng.uniform(0.5, 1.0)) * rng.uniform(0.75, 1.25, len(outline))
    if rng.random() < 0.6:  # long gentle bevels at the two ends make the lid
        slopes[[1, 3] if len(outline) == 4 else [0, 2]] *= rng.uniform(0.35, 0.7)
    outline = turn(outline, rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    height, gap = _facets(sheet, outline, slopes, width * rng.uniform(0.12, 0.4))
    sheet.opd_um += height * np.float32(rng.uniform(0.2, 0.42))
    inside = (height > 0).astype(np.float32)
    sheet.tint(inside, np.array([0.02, 0.02, 0.03]) * rng.uniform(0, 2))
    sheet.tint(inside * np.exp(-((gap / 0.7) ** 2)), np.full(3, -rng.uniform(-0.2, 0.3)))
    return sheet


def uric_acid(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Uric acid: yellow to reddish-brown diamonds, lemons, barrels and rosettes, layered."""
    drawn = (_diamond, _barrel, _uric_rosette)[rng.choice(3, p=[0.5, 0.3, 0.2])]
    return drawn(rng, um_per_px)


def _uric_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    return _YELLOW_BROWN * rng.uniform(0.25, 1.4) * rng.uniform(0.75, 1.25, 3)


def _diamond(rng: np.random.Generator, um_per_px: float) -> Sheet:
    length = rng.uniform(12, 50)
    width = length * rng.uniform(0.4, 0.8)
    outline = np.array([[-length / 2, 0], [0, -width / 2], [length / 2, 0], [0, width / 2]])
    outline = turn(rounded(outline, int(rng.integers(0, 3))), rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    for shrink in np.sort(rng.uniform(0.55, 1, rng.integers(1, 4)))[::-1]:
        layer = sheet.domed(sheet.filled(outline * shrink), rng.uniform(0.8, 2.5))
        sheet.opd_um += layer * np.float32(rng.uniform(0.25, 0.6))
        sheet.tint(layer, _uric_colour(rng) * 0.7)
    return sheet


def _barrel(rng: np.random.Generator, um_per_px: float) -> Sheet:
    length, width = rng.uniform(12, 40), rng.uniform(9, 22)
    s = np.linspace(-1, 1, 20)
    belly = width / 2 * (1 - rng.uniform(0.25, 0.5) * s**2)
    outline = np.concatenate(
        [np.stack([s * length / 2, belly], axis=1), np.stack([s[::-1] * length / 2, -belly[::-1]], axis=1)]
    )
    outline = turn(outline, rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    body = sheet.domed(sheet.filled(outline), rng.uniform(1.5, 0.4 * width))
    sheet.opd_um += body * np.float32(rng.uniform(0.5, 1.1))
    sheet.tint(body, _uric_colour(rng))
    return sheet


def _uric_rosette(rng: np.random.Generator, um_per_px: float) -> Sheet:
    radius = rng.uniform(8, 20)
    petals = []
    for angle in np.arange(n := rng.integers(5, 11)) * 2 * np.pi / n + rng.normal(0, 0.25, n):
        petal = np.array([[0, 0], [0.6, -0.22], [1, 0], [0.6, 0.22]]) * radius * rng.uniform(0.75, 1.1)
        petals.append(turn(petal, angle))
    sheet = Sheet.holding(np.concatenate(petals), um_per_px)
    for petal in petals:
        layer = sheet.domed(sheet.filled(petal), rng.uniform(0.8, 1.8))
        sheet.opd_um += layer * np.float32(rng.uniform(0.25, 0.5))
        sheet.tint(layer, _uric_colour(rng) * 0.7)
    return sheet


def ammonium_biurate(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Ammonium biurate: yellow-brown ball of 8 to 28 um with radial streaks, most often with thorns."""
    radius = rng.uniform(4, 14)
    thorns = []
    for _ in range(rng.integers(0, 4) if rng.random() < 0.35 else rng.integers(4, 14)):
        angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.2, 2)
        hook = angle + rng.normal(0, 0.35)
        tip = reach * np.array([np.cos(hook), np.sin(hook)])
        broad = rng.uniform(0.08, 0.2)
        base = [0.85 * radius * np.array([np.cos(angle + d), np.sin(angle + d)]) for d in (-broad, broad)]
        bow = rng.normal(0, 0.12) * np.array([-tip[1], tip[0]])  # thorns bend like those of a rose
        middles = [(0.6 * foot + 0.4 * tip) + bow for foot in base]
        thorns.append(np.array([base[0], middles[0], tip, middles[1], base[1]]))
    outline = ring(rng, radius, radius * rng.uniform(0.85, 1), rough=0.03)
    sheet = Sheet.holding(np.concatenate([outline, *thorns]), um_per_px)
    colour = np.array([0.18, 0.5, 1.0]) * rng.uniform(0.6, 1.6)
    for thorn in thorns:
        layer = sheet.domed(sheet.filled(thorn), 0.8)
        sheet.opd_um += layer * np.float32(0.3)
        sheet.tint(layer, colour * 0.6)
    body = sheet.domed(sheet.filled(outline), 0.8 * radius)
    sheet.opd_um += (
        body * np.float32(rng.uniform(0.6, 1.2)) * (1 + np.float32(rng.uniform(0.02, 0.1)) * sheet.noise(rng, 1.2))
    )
    along, across = sheet.turned(0, 0, 0)
    rays = np.cos(np.arctan2(across, along) * np.float32(rng.integers(9, 20)))
    sheet.tint(body * (1 + np.float32(0.15) * rays), colour)
    return sheet


def hippuric_acid(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Hippuric acid: colourless or pale yellow slender four-sided prisms with pointed ends, single or crossing."""
    count = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
    length = rng.uniform(15, 60)
    prisms = []
    for _ in range(count):
        own = length * rng.uniform(0.7, 1)
        width = own * rng.uniform(0.07, 0.2)
        prisms.append(turn(_prism(own, width, width * rng.uniform(0.6, 1.4)), rng.uniform(0, np.pi)))
    shifts = rng.normal(0, 0.12 * length, (count, 2)) * (count > 1)
    sheet = Sheet.holding(np.concatenate([p + s for p, s in zip(prisms, shifts, strict=True)]), um_per_px)
    colour = np.array([0.02, 0.04, 0.12]) * rng.uniform(0, 1.6)
    for prism, shift in zip(prisms, shifts, strict=True):
        height, _ = _facets(sheet, prism + shift, rng.uniform(0.5, 1.1, 6), length * 0.05)
        sheet.opd_um += height * np.float32(rng.uniform(0.2, 0.35))
        sheet.tint((height > 0).astype(np.float32), colour)
    return sheet


def calcium_phosphate(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Calcium phosphate: colourless wedge-ended prisms, singly or fanning out as a rosette or star."""
    length = rng.uniform(10, 28)
    count = int(rng.integers(6, 24)) if rng.random() < 0.75 else int(rng.integers(1, 3))
    blades = []
    fan = rng.choice([2 * np.pi, np.pi, 1.2], p=[0.6, 0.2, 0.2])
    for angle in rng.uniform(0, 6) + fan * (np.arange(count) + rng.normal(0, 0.25, count)) / count:
        own, w = length * rng.uniform(0.6, 1.1), length * rng.uniform(0.025, 0.1)
        wedge = np.array([[0, -0.3 * w], [own * 0.92, -w], [own, rng.uniform(-w, w)], [own * 0.92, w], [0, 0.3 * w]])
        blades.append(turn(wedge, angle))
    middle = np.concatenate(blades)
    middle = (middle.min(axis=0) + middle.max(axis=0)) / 2
    sheet = Sheet.holding(np.concatenate(blades) - middle, um_per_px)
    for blade in blades:
        _slab(sheet, blade - middle, rng.uniform(0.15, 0.4), rng.uniform(0.6, 1.4))
    sheet.tint((sheet.opd_um > 0.05).astype(np.float32), np.array([0.03, 0.03, 0.04]) * rng.uniform(0, 2))
    return sheet


def cystine(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Cystine: colourless, thin hexagonal plates of 10 to 40 um with sharp edges, often stacked."""
    radius = rng.uniform(5, 19)
    plates = []
    for k in range(int(rng.choice([1, 2, 3, 4], p=[0.5, 0.25, 0.15, 0.1]))):
        own = radius * (1 if k == 0 else rng.uniform(0.35, 0.9))
        theta = np.arange(6) * np.pi / 3 + rng.normal(0, 0.03, 6)
        hexagon = own * np.stack([np.cos(theta), np.sin(theta) * rng.uniform(0.82, 1)], axis=1)
        hexagon[:, 0] *= rng.uniform(1, 1.25)
        shift = rng.normal(0, 0.5 * radius, 2) * (k > 0)
        plates.append(turn(hexagon, rng.uniform(0, np.pi)) + shift)
    everything = np.concatenate(plates)
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    sheet = Sheet.holding(everything - middle, um_per_px)
    for plate in plates:
        mask = _slab(sheet, plate - middle, rng.uniform(0.12, 0.4), rng.uniform(0.4, 1.0))
        inner = sheet.filled((plate - plate.mean(axis=0)) * rng.uniform(0.6, 0.85) + plate.mean(axis=0) - middle)
        sheet.opd_um += inner * np.float32(rng.uniform(0, 0.08))
        sheet.tint(mask, np.full(3, rng.uniform(0, 0.06)))
    return sheet


def leucine(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Leucine: yellow-brown oily spheres of 8 to 30 um with concentric rings and radial striations."""
    radius = rng.uniform(4, 15)
    outline = ring(rng, radius, radius * rng.uniform(0.93, 1), rough=0.01)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    body = sheet.domed(mask, 0.7 * radius)
    x, y = sheet.grid()
    distance = np.sqrt(x * x + y * y) / np.float32(radius) + np.float32(rng.uniform(0, 0.03)) * sheet.noise(rng, 4)
    rings = np.cos(2 * np.pi * distance * np.float32(rng.uniform(2.5, 5.5)))
    rays = np.cos(np.arctan2(y, x) * np.float32(rng.integers(14, 34)) + np.float32(1.1) * sheet.noise(rng, 3))
    fade = np.clip(distance * 1.4, 0, 1) * mask
    sheet.opd_um += body * np.float32(rng.uniform(0.5, 0.9))
    sheet.opd_um += rings * mask * np.float32(rng.uniform(0.005, 0.06)) + rays * fade * np.float32(rng.uniform(0, 0.04))
    colour = np.array([0.1, 0.28, 0.7]) * rng.uniform(0.5, 1.5)
    sheet.tint(
        mask * (1 + np.float32(rng.uniform(0.05, 0.25)) * rings + np.float32(0.1) * rays * fade) * (0.5 + 0.5 * body),
        colour,
    )
    return sheet


def tyrosine(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Tyrosine: fine silky needles gathered in sheaves, dark where they cross, colourless to yellow-black."""
    length = rng.uniform(14, 50)
    lines = []
    for axis in rng.uniform(0, np.pi, rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])):
        spread = rng.uniform(0.12, 0.4)
        for angle in axis + rng.normal(0, spread, rng.integers(18, 50)):
            half = length / 2 * rng.uniform(0.5, 1, 2)
            tip = np.array([np.cos(angle), np.sin(angle)])
            waist = rng.normal(0, 0.02 * length, 2)
            lines.append(np.array([-half[0] * tip, waist, half[1] * tip]))
    sheet = Sheet.holding(np.concatenate(lines), um_per_px)
    for k in range(0, len(lines), 6):
        needles = sheet.stroked(lines[k : k + 6], rng.uniform(0.25, 0.6))
        sheet.opd_um += needles * np.float32(rng.uniform(0.08, 0.2))
        sheet.tint(needles, np.array([0.12, 0.14, 0.2]) * rng.uniform(0.4, 1.6))
    return sheet


def calcium_carbonate(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Calcium carbonate: small colourless spheres, dumbbells, or clumps of a few, each 1.5 to 4 um."""
    radius = rng.uniform(1.1, 2.6)
    form = rng.choice([1, 2, 4], p=[0.2, 0.6, 0.2])
    if form == 4:
        centres = packed(rng, int(rng.integers(3, 7)), 1.7 * radius)
    else:
        centres = np.array([[-0.75, 0], [0.75, 0]])[:form] * radius * rng.uniform(0.9, 1.15)
        centres = turn(centres - centres.mean(axis=0), rng.uniform(0, np.pi))
    sheet = Sheet.holding(centres, um_per_px, margin_um=radius + 2.5)
    for x, y in centres:
        sheet.ball(x, y, radius * rng.uniform(0.9, 1.1), rng.uniform(0.1, 0.2))
    sheet.tint((sheet.opd_um > 0).astype(np.float32), np.array([0.06, 0.08, 0.12]) * rng.uniform(0, 1.8))
    return sheet


def cholesterol(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Cholesterol: large flat transparent rectangular plates with notched corners, lying over one another."""
    length = rng.uniform(20, 65)
    plates = []
    for k in range(int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))):
        own = length * (1 if k == 0 else rng.uniform(0.4, 0.9))
        plate = _notched(rng, own, own * rng.uniform(0.5, 0.95))
        plates.append(turn(plate, rng.normal(0, 0.15)) + rng.normal(0, 0.2 * length, 2) * (k > 0))
    angle = rng.uniform(0, np.pi)
    everything = np.concatenate(plates)
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    plates = [turn(plate - middle, angle) for plate in plates]
    sheet = Sheet.holding(np.concatenate(plates), um_per_px)
    for plate in plates:
        mask = _slab(sheet, plate, rng.uniform(0.08, 0.25), rng.uniform(0.3, 0.7))
        sheet.tint(mask, np.full(3, rng.uniform(0, 0.05)))
    return sheet


def _notched(rng: np.random.Generator, length_um: float, width_um: float) -> Points:
    """A rectangle with steps cut out of one or more corners."""
    a, b = length_um / 2, width_um / 2
    outline: list[tuple[float, float]] = []
    cut_any = rng.integers(4)
    for corner, (sx, sy) in enumerate([(-1, -1), (1, -1), (1, 1), (-1, 1)]):
        if corner != cut_any and rng.random() < 0.6:
            outline.append((sx * a, sy * b))
            continue
        cut_x, cut_y = a * rng.uniform(0.2, 0.7), b * rng.uniform(0.2, 0.7)
        steps = [(sx * a, sy * (b - cut_y)), (sx * (a - cut_x), sy * (b - cut_y)), (sx * (a - cut_x), sy * b)]
        outline.extend(steps if corner % 2 == 0 else steps[::-1])
    return np.array(outline)


def bilirubin(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Bilirubin: small tufts of fine needles or granules, bright yellow to reddish brown."""
    radius = rng.uniform(3, 11)
    colour = np.array([0.08, 0.5, 1.5]) * rng.uniform(0.6, 1.5)
    colour[1] *= rng.uniform(0.6, 1.5)
    if rng.random() < 0.25:
        centres = packed(rng, int(rng.integers(6, 20)), 0.3 * radius)
        sheet = Sheet.holding(centres, um_per_px)
        grains = sheet.dotted(centres, rng.uniform(0.12, 0.3, len(centres)) * radius, rng.uniform(0.5, 1, len(centres)))
    else:
        angle = rng.uniform(0, np.pi) + rng.normal(0, rng.uniform(0.2, 2), rng.integers(6, 46))
        tips = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        half = radius * rng.uniform(0.5, 1, (len(angle), 2))
        roots = rng.normal(0, rng.choice([0.02, 0.3]) * radius, half.shape)
        lines = [np.array([r - h[0] * tip, r + h[1] * tip]) for r, h, tip in zip(roots, half, tips, strict=True)]
        sheet = Sheet.holding(np.concatenate(lines), um_per_px)
        grains = sheet.stroked(lines, rng.uniform(0.2, 0.5))
        if rng.random() < 0.6:
            core = sheet.filled(ring(rng, 0.3 * radius, 0.3 * radius, rough=0.15))
            grains = np.maximum(grains, core * np.float32(0.8))
    sheet.opd_um += grains * np.float32(rng.uniform(0.1, 0.3))
    sheet.tint(grains, colour)
    return sheet


def splinter(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A chip of glass or mineral: sharp irregular corners, glaring facets (an artefact)."""
    outline = corners(rng, rng.uniform(4, 22), int(rng.integers(4, 8)), uneven=0.35)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    body = sheet.domed(mask, rng.uniform(0.8, 3))
    sheet.opd_um += body * np.float32(rng.uniform(0.3, 1.0)) * (1 + np.float32(0.25) * sheet.noise(rng, 4))
    sheet.tint(mask, np.full(3, rng.uniform(0, 0.4)))
    return sheet
