"""Blood and epithelial cells, alone and in clumps.

Each `add_*` puts one cell on a sheet that may hold others; each drawer without that prefix makes a sheet of its own.
Optical paths follow refractive indices from the literature: urine 1.335, red cells 1.40, leukocyte cytoplasm 1.36,
granules and nuclei 1.38.
"""

from __future__ import annotations

import numpy as np

from renalcore.sediment.synthetic.sheet import (
    Floats,
    Layer,
    Points,
    Sheet,
    corners,
    packed,
    ring,
    rounded,
    scattered,
    turn,
)

_HAEMOGLOBIN = np.array([0.03, 0.08, 0.2])


def add_rbc(sheet: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    """A red cell: biconcave disc, or swollen, crenated, folded, cupped or a ghost, as strong or weak urine makes it."""
    view = sheet.part(x_um, y_um, 1.4 * radius_um)
    form = str(rng.choice(list(_RBC_FORMS), p=list(_RBC_FORMS.values())))
    oval = rng.uniform(0.9, 1.0) if rng.random() < 0.8 else rng.uniform(0.6, 0.9)
    outline = ring(rng, radius_um, radius_um * oval, rough=0.012, waves=5)
    if form == "crenated":
        outline = _crenated(rng, radius_um, oval)
    angle = rng.uniform(0, np.pi)
    mask = view.filled(turn(outline, angle, (x_um, y_um)))
    edge = view.domed(mask, radius_um * rng.uniform(0.18, 0.5))
    thickness = rng.uniform(1.8, 2.8) * edge * _relief(view, rng, form, (x_um, y_um), radius_um, angle)
    strength = 0.35 if form == "ghost" else rng.uniform(0.7, 1.3)
    view.opd_um += np.float32(0.065 * strength) * thickness
    colour = _HAEMOGLOBIN * rng.uniform(0.2, 1.3) * (0.15 if form == "ghost" else 1) + rng.uniform(0, 0.13)
    view.tint(thickness / 2, colour)


_RBC_FORMS = {"disc": 0.24, "swollen": 0.23, "ring": 0.16, "crenated": 0.11, "folded": 0.08, "cup": 0.11, "ghost": 0.07}
"""How often each shape of a red cell is drawn."""


def _relief(
    view: Sheet, rng: np.random.Generator, form: str, centre_um: tuple[float, float], radius_um: float, angle: float
) -> Layer:
    """How thick a red cell of that form is over its face, as a share."""
    along, across = (axis / np.float32(radius_um) for axis in view.turned(*centre_um, angle))
    if form in ("disc", "ring"):
        dimple = rng.uniform(0.25, 0.6) if form == "disc" else rng.uniform(0.7, 0.95)
        return 1 - np.float32(dimple) * np.exp(-(along**2 + across**2) / np.float32(rng.uniform(0.16, 0.36)))
    if form == "folded":
        return 1 - np.float32(0.8) * np.exp(-((across / 0.22) ** 2) - (along / 0.7) ** 2)
    if form == "cup":  # a dent off centre, whose rim shows as a crescent
        off, wide = rng.uniform(0.2, 0.55), rng.uniform(0.35, 0.7)
        dent = np.clip((wide - np.sqrt((along - np.float32(off)) ** 2 + across**2)) * rng.uniform(2, 4) + 0.5, 0, 1)
        return 1 - np.float32(rng.uniform(0.5, 0.9)) * dent
    if form == "crenated":
        return 1 + np.float32(0.3) * view.noise(rng, 0.3 * radius_um)
    return np.ones_like(along + across)


def _crenated(rng: np.random.Generator, radius_um: float, oval: float) -> Points:
    theta = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    spikes = rng.integers(8, 15)
    wave = np.cos(spikes * theta + rng.uniform(0, 6) + 0.5 * np.sin(2 * theta + rng.uniform(0, 6)))
    radius = radius_um * (0.93 + rng.uniform(0.04, 0.1) * wave)
    return np.stack([radius * np.cos(theta), oval * radius * np.sin(theta)], axis=1)


def add_wbc(sheet: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    """A leukocyte: dull grey granular sphere, nucleus of two to four lobes; old ones swell, bleb or fall apart."""
    view = sheet.part(x_um, y_um, 1.7 * radius_um)
    form = rng.choice(["fresh", "glitter", "swollen", "broken"], p=[0.45, 0.2, 0.15, 0.2])
    outline = ring(rng, radius_um, radius_um * rng.uniform(0.85, 1), rough=0.1 if form == "broken" else 0.03)
    mask = view.filled(turn(outline, rng.uniform(0, np.pi), (x_um, y_um)))
    body = view.domed(mask, radius_um * rng.uniform(0.35, 0.8))
    view.opd_um += body * np.float32(radius_um * rng.uniform(0.012, 0.03))
    _lobed_nucleus(view, rng, x_um, y_um, radius_um)
    contrast = {"fresh": 0.8, "glitter": 2.2, "swollen": 0.35, "broken": 1.6}[form]
    _granules(view, rng, mask, int(rng.uniform(50, 150)), (0.12, 0.4), 0.055 * contrast)
    view.opd_um += body * view.noise(rng, radius_um * rng.uniform(0.2, 0.35)) * np.float32(0.05 * contrast)
    if rng.random() < 0.5:  # granules and lobes gather light: bright specks in a dark body
        specks = np.clip(view.noise(rng, 0.25 * radius_um) - 0.4, 0, 1.5)
        view.tint(body * specks, np.array([-0.9, -1.0, -0.6]) * rng.uniform(0.1, 0.5))
    if form == "broken":
        _blebs(view, rng, x_um, y_um, radius_um)
    view.tint(body, np.array([0.05, 0.045, 0.07]) * rng.uniform(0.3, 2) * rng.uniform([1, 1, 1], [1, 1, 1.8]))


def _lobed_nucleus(view: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    lobes = rng.integers(1, 5)
    size = radius_um * (0.6 if lobes == 1 else 0.42)
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(lobes) * 2.2 * rng.uniform(0.7, 1):
        reach = 0.0 if lobes == 1 else 0.38 * radius_um
        centre = (x_um + reach * np.cos(angle), y_um + reach * np.sin(angle))
        mask = view.filled(ring(rng, size, size * rng.uniform(0.7, 1)) + centre)
        dome = view.domed(mask, size * 0.7)
        view.opd_um += dome * np.float32(rng.uniform(0.02, 0.07))
        view.tint(dome, np.full(3, rng.uniform(0.0, 0.08)))


def _granules(
    view: Sheet,
    rng: np.random.Generator,
    mask: Floats,
    count: int,
    radii_um: tuple[float, float],
    opd_um: float,
    darkness: float = 0.0,
) -> None:
    """Fine grains within `mask`: dots of optical path, dark ones if they have pigment."""
    points = scattered(rng, view, mask, count)
    dots = view.dotted(points, rng.uniform(*radii_um, len(points)), rng.uniform(0.3, 1, len(points)))
    view.opd_um += view.softened(dots, 0.12) * np.float32(opd_um)
    if darkness:
        view.tint(dots, np.array([0.9, 1.0, 1.1]) * darkness)


def _blebs(view: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    for _ in range(rng.integers(8, 28)):
        angle, reach, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.2), radius_um * rng.uniform(0.08, 0.22)
        centre = (x_um + reach * radius_um * np.cos(angle), y_um + reach * radius_um * np.sin(angle))
        view.ball(*centre, size, rng.uniform(0.03, 0.06))


def rbc(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A red cell of 6 to 8 um; see `add_rbc`."""
    radius = rng.normal(3.5, 0.25)
    sheet = Sheet.disc(1.1 * radius, um_per_px)
    add_rbc(sheet, rng, 0, 0, radius)
    return sheet


def wbc(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A leukocyte of 9 to 14 um; see `add_wbc`."""
    radius = float(np.clip(rng.normal(5.6, 0.7), 4.3, 7.2))
    sheet = Sheet.disc(1.4 * radius, um_per_px)
    add_wbc(sheet, rng, 0, 0, radius)
    return sheet


def rbc_clump(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Six to twenty-odd red cells that touch and overlap."""
    centres = packed(rng, int(rng.integers(6, 24)), rng.uniform(5.2, 6.6))
    sheet = Sheet.holding(centres, um_per_px, margin_um=6.5)
    for x, y in centres:
        add_rbc(sheet, rng, x, y, rng.normal(3.4, 0.2))
    return sheet


def wbc_clump(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Five to eighteen leukocytes stuck together."""
    centres = packed(rng, int(rng.integers(5, 18)), rng.uniform(7.5, 9.5))
    sheet = Sheet.holding(centres, um_per_px, margin_um=10)
    for x, y in centres:
        add_wbc(sheet, rng, x, y, rng.normal(5.3, 0.4))
    return sheet


def _nucleus(
    sheet: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float, opd_um: float, dark: float
) -> None:
    """A round or oval nucleus with a sharp membrane, grainy chromatin and a nucleolus."""
    view = sheet.part(x_um, y_um, 1.5 * radius_um)
    outline = ring(rng, radius_um, radius_um * rng.uniform(0.75, 1), rough=0.03)
    mask = view.filled(turn(outline, rng.uniform(0, np.pi), (x_um, y_um)))
    dome = view.domed(mask, 0.35 * radius_um)
    view.opd_um += np.float32(opd_um) * dome * (1 + np.float32(0.22) * view.noise(rng, 0.25 * radius_um))
    view.tint(dome, np.array([0.9, 0.9, 1.0]) * dark)
    spot = rng.uniform(-0.35, 0.35, 2) * radius_um
    view.ball(x_um + spot[0], y_um + spot[1], 0.22 * radius_um, 0.04)


def squamous(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A squamous cell: thin polygonal plate of 35 to 60 um, folded edges, sparse granules, small central nucleus."""
    radius = rng.uniform(17, 30)
    outline = _plate(rng, radius)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    plate = sheet.domed(mask, rng.uniform(0.8, 2.6))
    thin = rng.uniform(0.08, 0.2)
    sheet.opd_um += plate * np.float32(thin) * (1 + np.float32(0.25) * sheet.noise(rng, 5))
    if rng.random() < 0.3:  # crumpled
        ridges = np.exp(-((sheet.noise(rng, rng.uniform(4, 11)) / rng.uniform(0.1, 0.25)) ** 2))
        sheet.opd_um += plate * ridges * np.float32(rng.uniform(0.15, 0.7) * thin)
    for _ in range(rng.integers(0, 5)):
        _fold(sheet, rng, outline, mask, thin)
    _granules(sheet, rng, mask, int(rng.uniform(20, 260)), (0.15, 0.5), rng.uniform(0.02, 0.08))
    sheet.tint(plate, np.array([0.03, 0.03, 0.045]) * rng.uniform(0, 2.2))
    centre = rng.normal(0, 0.12, 2) * radius
    _nucleus(sheet, rng, centre[0], centre[1], rng.uniform(3, 4.6), rng.uniform(0.08, 0.2), rng.uniform(0, 0.12))
    return sheet


def _plate(rng: np.random.Generator, radius_um: float) -> Points:
    """A polygon with soft corners, hollow or bulging sides, and a slightly frayed edge."""
    shape = corners(rng, radius_um, int(rng.integers(4, 9)), uneven=0.3)
    shape[:, 1] *= rng.uniform(0.65, 1) if rng.random() < 0.8 else rng.uniform(0.3, 0.6)  # or rolled up
    middles = (shape + np.roll(shape, -1, axis=0)) / 2 * rng.uniform(0.92, 1.08, (len(shape), 1))
    outline = rounded(np.stack([shape, middles], axis=1).reshape(-1, 2), 2)
    return turn(outline * (1 + rng.normal(0, 0.002, (len(outline), 1))), rng.uniform(0, np.pi))


def _fold(sheet: Sheet, rng: np.random.Generator, outline: Points, mask: Floats, thin: float) -> None:
    """A crease, or a corner that is folded over and doubles the thickness."""
    first, second = outline[rng.choice(len(outline), 2, replace=False)]
    if rng.random() < 0.5:
        middle = (first + second) / 2 * rng.uniform(0.7, 1.3)
        curve = np.linspace(0, 1, 20)[:, None]
        line = (1 - curve) ** 2 * first + 2 * curve * (1 - curve) * middle + curve**2 * second
        crease = sheet.softened(sheet.stroked([line], rng.uniform(0.5, 1.4)), 0.3)
        sheet.opd_um += crease * mask * np.float32(rng.uniform(0.6, 1.8) * thin)
        return
    start = rng.integers(len(outline))
    flap = np.roll(outline, -start, axis=0)[: max(3, len(outline) // 5)] * rng.uniform(0.75, 0.95)
    sheet.opd_um += sheet.domed(sheet.filled(flap), 1.0) * mask * np.float32(thin)


def transitional(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A transitional cell: 18 to 32 um, round, pear-shaped or tailed, sharp border, round central nucleus."""
    radius = rng.uniform(9, 15)
    outline = ring(rng, radius, radius * rng.uniform(0.7, 1), rough=0.05, waves=4)
    if rng.random() < 0.55:
        outline = _tailed(rng, outline, radius)
    outline = turn(outline, rng.uniform(0, 2 * np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    body = sheet.domed(mask, radius * rng.uniform(0.25, 0.6))
    sheet.opd_um += body * np.float32(rng.uniform(0.15, 0.32)) * (1 + np.float32(0.08) * sheet.noise(rng, 2.5))
    _granules(sheet, rng, mask, int(rng.uniform(60, 220)), (0.15, 0.5), rng.uniform(0.03, 0.08))
    sheet.tint(body, np.array([0.05, 0.06, 0.11]) * rng.uniform(0.3, 1.8))
    for x, y in rng.normal(0, 0.12 * radius, (2 if rng.random() < 0.12 else 1, 2)):
        _nucleus(sheet, rng, x, y, radius * rng.uniform(0.3, 0.42), rng.uniform(0.15, 0.3), rng.uniform(0.03, 0.15))
    return sheet


def _tailed(rng: np.random.Generator, outline: Points, radius_um: float) -> Points:
    """One end of `outline` drawn out into a tail: the caudate cells of the renal pelvis."""
    x = outline[:, 0] / radius_um
    pull = np.clip(x - 0.1, 0, None) ** 2
    longer = outline[:, 0] + radius_um * rng.uniform(0.5, 1.6) * pull
    slimmer = outline[:, 1] / (1 + 3 * pull)
    return np.stack([longer, slimmer], axis=1)


def renal(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A tubular cell: 13 to 20 um, rounded or cuboid, coarse dark granules, large round eccentric nucleus."""
    radius = rng.uniform(6.2, 10)
    outline = rounded(corners(rng, radius, int(rng.integers(4, 7)), uneven=0.12), 3)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    body = sheet.domed(mask, radius * rng.uniform(0.3, 0.6))
    sheet.opd_um += body * np.float32(rng.uniform(0.15, 0.3))
    _granules(sheet, rng, mask, int(rng.uniform(90, 260)), (0.12, 0.42), rng.uniform(0.05, 0.12), rng.uniform(0, 0.25))
    sheet.tint(body, np.array([0.08, 0.12, 0.2]) * rng.uniform(0.5, 1.8))
    angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.15, 0.4)
    size = radius * rng.uniform(0.38, 0.5)
    centre = (reach * np.cos(angle), reach * np.sin(angle))
    _nucleus(sheet, rng, *centre, size, rng.uniform(0.18, 0.32), rng.uniform(0.05, 0.25))
    return sheet


def atypical(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A suspected atypical cell: large, odd outline, one or more big dark irregular nuclei that crowd the cell."""
    radius = rng.uniform(9, 19)
    outline = turn(ring(rng, radius, radius * rng.uniform(0.6, 1), rough=0.11, waves=6), rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    body = sheet.domed(mask, radius * rng.uniform(0.25, 0.5))
    sheet.opd_um += body * np.float32(rng.uniform(0.15, 0.35)) * (1 + np.float32(0.15) * sheet.noise(rng, 2))
    _granules(sheet, rng, mask, int(rng.uniform(50, 160)), (0.2, 0.7), rng.uniform(0.03, 0.09))
    sheet.tint(body, np.array([0.06, 0.07, 0.1]) * rng.uniform(0.5, 2))
    for _ in range(rng.choice([1, 2, 3], p=[0.68, 0.24, 0.08])):
        x, y = rng.normal(0, 0.15 * radius, 2)
        size = radius * rng.uniform(0.42, 0.62)
        nucleus = turn(ring(rng, size, size * rng.uniform(0.65, 1), rough=0.1), rng.uniform(0, np.pi), (x, y))
        dome = sheet.domed(sheet.filled(nucleus) * mask, 0.25 * size)
        chromatin = 1 + np.float32(0.35) * sheet.noise(rng, 0.2 * size)
        sheet.opd_um += dome * chromatin * np.float32(rng.uniform(0.12, 0.28))
        sheet.tint(dome * np.maximum(chromatin, 0), np.array([1, 1, 0.9]) * rng.uniform(0.15, 0.5))
        for spot in rng.normal(0, 0.3 * size, (rng.integers(1, 4), 2)):
            sheet.ball(x + spot[0], y + spot[1], size * rng.uniform(0.12, 0.22), 0.05)
    return sheet


def oval_fat_body(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A tubular cell of 13 to 28 um stuffed with fat: a lump of bright, black-rimmed droplets of all sizes."""
    radius = rng.uniform(6.5, 14)
    outline = ring(rng, radius, radius * rng.uniform(0.75, 1), rough=0.04)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(turn(outline, rng.uniform(0, np.pi)))
    body = sheet.domed(mask, 0.6 * radius)
    sheet.opd_um += body * np.float32(rng.uniform(0.1, 0.25))
    sheet.tint(body, np.array([0.1, 0.14, 0.22]) * rng.uniform(0.6, 2.2))
    inner = sheet.filled(0.86 * outline)
    for x, y in scattered(rng, sheet, inner, int(rng.uniform(1.2, 3) * radius**1.6)):
        sheet.ball(x, y, float(np.clip(rng.gamma(2.2, 0.33), 0.3, 2.6)), rng.uniform(0.05, 0.11))
    return sheet
