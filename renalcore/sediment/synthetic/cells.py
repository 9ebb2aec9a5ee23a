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

_GATHERED = np.array([-1.0, -0.95, -0.6])
"""Light that a small lens gathers, yellowish as most objectives leave it; to be scaled."""


def add_rbc(sheet: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    """A red cell: biconcave disc, or swollen, spiky, folded, cupped or a ghost, as strong or weak urine makes it."""
    form = str(rng.choice(list(_RBC_FORMS), p=list(_RBC_FORMS.values())))
    if form == "sphere":
        radius_um *= rng.uniform(0.72, 0.92)  # a ball of the same volume is narrower than the disc
    view = sheet.part(x_um, y_um, 1.4 * radius_um)
    oval = rng.uniform(0.9, 1.0) if rng.random() < 0.75 else rng.uniform(0.6, 0.9)
    outline = ring(rng, radius_um, radius_um * oval, rough=0.012 if rng.random() < 0.7 else 0.04, waves=5)
    if form == "crenated":
        outline = _crenated(rng, radius_um, oval)
    angle = rng.uniform(0, np.pi)
    mask = view.filled(turn(outline, angle, (x_um, y_um)))
    edge = view.domed(mask, radius_um * (0.9 if form == "sphere" else rng.uniform(0.2, 0.55)))
    thickness = rng.uniform(1.8, 2.8) * edge * _relief(view, rng, form, (x_um, y_um), radius_um, angle)
    strength = 0.35 if form == "ghost" else rng.uniform(0.7, 1.4)
    view.opd_um += np.float32(0.065 * strength) * thickness
    colour = _HAEMOGLOBIN * rng.uniform(0.2, 1.3) * (0.15 if form == "ghost" else 1) + rng.uniform(0, 0.13)
    view.tint(thickness / 2, colour)
    # the steep rim bends light past the objective, the domed middle gathers it: both stay when the cell is in focus
    view.tint((mask - edge) * mask, np.full(3, rng.uniform(0, 0.7 if form != "ghost" else 0.25)))
    if form == "crenated":  # between its spikes a crenated cell glistens in a few lumps
        lumps = np.clip(view.noise(rng, rng.uniform(0.3, 0.5) * radius_um), 0, 1.5)
        view.tint(edge * lumps, _GATHERED * rng.uniform(0, 0.45))
    elif form == "sphere" or rng.random() < 0.12:
        along, across = view.turned(x_um, y_um, angle)
        lit = np.exp((along**2 + across**2) / np.float32(-((rng.uniform(0.3, 0.6) * radius_um) ** 2)))
        view.tint(mask, np.full(3, rng.uniform(0, 0.5)))
        view.tint(lit * mask, _GATHERED * rng.uniform(0.1, 1.0))


_RBC_FORMS = {
    "disc": 0.22,
    "swollen": 0.17,
    "ring": 0.17,
    "sphere": 0.09,
    "crenated": 0.12,
    "folded": 0.07,
    "cup": 0.09,
    "ghost": 0.07,
}
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
        slit = np.exp(-(((across - 0.2 * along**2) / rng.uniform(0.14, 0.3)) ** 2) - (along / 0.7) ** 2)
        return 1 - np.float32(rng.uniform(0.5, 0.9)) * slit
    if form == "cup":  # a dent off centre, whose rim shows as a crescent
        off, wide = rng.uniform(0.2, 0.55), rng.uniform(0.35, 0.7)
        dent = np.clip((wide - np.sqrt((along - np.float32(off)) ** 2 + across**2)) * rng.uniform(2, 4) + 0.5, 0, 1)
        return 1 - np.float32(rng.uniform(0.5, 0.9)) * dent
    if form == "crenated":
        return 1 + np.float32(rng.uniform(0.06, 0.3)) * view.noise(rng, rng.uniform(0.25, 0.45) * radius_um)
    return np.ones_like(along + across)


def _crenated(rng: np.random.Generator, radius_um: float, oval: float) -> Points:
    theta = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    spikes = rng.integers(8, 15)
    wave = np.cos(spikes * theta + rng.uniform(0, 6) + 0.5 * np.sin(2 * theta + rng.uniform(0, 6)))
    radius = radius_um * (0.93 + rng.uniform(0.04, 0.1) * wave)
    return np.stack([radius * np.cos(theta), oval * radius * np.sin(theta)], axis=1)


def add_wbc(sheet: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    """A leukocyte: dull granular sphere, nucleus of one to four lobes; small and dense, swollen, or falling apart."""
    form = str(rng.choice(list(_WBC_FORMS), p=list(_WBC_FORMS.values())))
    radius_um *= {"dense": 0.85, "swollen": 1.1}.get(form, 1.0)
    view = sheet.part(x_um, y_um, 1.7 * radius_um)
    mask = _wbc_mask(view, rng, form, (x_um, y_um), radius_um)
    body = view.domed(mask, radius_um * rng.uniform(0.3, 0.8))
    opd = rng.uniform(0.012, 0.03) * (1.5 if form == "dense" else 1)
    view.opd_um += body * np.float32(radius_um * opd)
    if form in ("fresh", "dense", "swollen"):
        _lobed_nucleus(view, rng, x_um, y_um, radius_um)
    elif form == "bubbly":
        for _ in range(rng.integers(2, 6)):
            _vesicle(view, rng, x_um, y_um, radius_um)
    contrast = _WBC_GRAIN[form] * rng.uniform(0.6, 1.4)
    if rng.random() < 0.5:
        _granules(view, rng, mask, int(rng.uniform(20, 90)), (0.15, 0.45), 0.05 * contrast)
    # cytoplasm is never smooth: worms and knots of half a micrometre, clouds of two
    grainy = body
    if form in ("swollen", "bubbly"):  # what is left of the granules has gathered on one side
        along, across = view.turned(x_um, y_um, rng.uniform(0, 2 * np.pi))
        off, wide = radius_um * rng.uniform(0.1, 0.6), radius_um * rng.uniform(0.35, 0.9)
        grainy = body * np.exp(((along - np.float32(off)) ** 2 + across**2) / np.float32(-(wide**2)))
        contrast *= rng.uniform(1, 3)
    for grain, amount in ((rng.uniform(0.45, 0.95), 0.022), (rng.uniform(0.25, 0.45) * radius_um, 0.045)):
        view.opd_um += grainy * view.noise(rng, grain) * np.float32(amount * contrast)
    view.tint((mask - body) * mask, np.full(3, rng.uniform(0, 0.6)))
    if rng.random() < 0.6:  # granules and lobes gather light: bright specks in a dark body
        specks = np.clip(view.noise(rng, rng.uniform(0.1, 0.22) * radius_um) - 0.5, 0, 1.2)
        view.tint(grainy * specks, _GATHERED * rng.uniform(0.1, 0.45))
    if form in ("broken", "popcorn") or rng.random() < 0.1:
        _blebs(view, rng, x_um, y_um, radius_um)
    stain = rng.uniform(0, 0.35) if form == "dense" else rng.uniform(0, 0.12)
    green = np.array([1.0, rng.uniform(0.6, 1), rng.uniform(0.9, 1.6)])
    view.tint(body, green * stain)


_WBC_FORMS = {
    "fresh": 0.45,
    "dense": 0.09,
    "swollen": 0.12,
    "glitter": 0.1,
    "bubbly": 0.08,
    "broken": 0.08,
    "popcorn": 0.08,
}
"""How often each state of a leukocyte is drawn."""

_WBC_GRAIN = {
    "fresh": 1.0,
    "dense": 0.5,
    "swollen": 0.6,
    "glitter": 1.8,
    "bubbly": 0.6,
    "broken": 1.5,
    "popcorn": 1.7,
}
"""How coarse its inside looks."""


def _wbc_mask(
    view: Sheet, rng: np.random.Generator, form: str, centre_um: tuple[float, float], radius_um: float
) -> Floats:
    """The outline of a leukocyte: round, or when it dies lobed, ragged, or a heap of knobs."""
    rough = {"broken": 0.12, "bubbly": 0.1, "popcorn": 0.06}.get(form, 0.02 if rng.random() < 0.7 else 0.06)
    slim = rng.uniform(0.85, 1) if rng.random() < 0.85 else rng.uniform(0.6, 0.85)
    size = 0.75 * radius_um if form == "popcorn" else radius_um
    mask = view.filled(turn(ring(rng, size, size * slim, rough=rough), rng.uniform(0, np.pi), centre_um))
    if form == "popcorn":
        angles = rng.uniform(0, 2 * np.pi, rng.integers(9, 22))
        reach = radius_um * rng.uniform(0.5, 1.05, len(angles))
        knobs = np.stack([reach * np.cos(angles), slim * reach * np.sin(angles)], axis=1) + centre_um
        mask = np.maximum(mask, view.dotted(knobs, radius_um * rng.uniform(0.1, 0.25, len(knobs)), np.ones(len(knobs))))
    return mask


def _vesicle(view: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    """A smooth bubble of cytoplasm with an outline of its own, inside a dying cell or bulging out of it."""
    angle, reach, size = (
        rng.uniform(0, 2 * np.pi),
        radius_um * rng.uniform(0.3, 0.95),
        radius_um * rng.uniform(0.25, 0.5),
    )
    centre = (x_um + reach * np.cos(angle), y_um + reach * np.sin(angle))
    dome = view.domed(view.filled(ring(rng, size, size * rng.uniform(0.8, 1)) + centre), 0.5 * size)
    view.opd_um += dome * np.float32(rng.uniform(-0.02, 0.07))


def _lobed_nucleus(view: Sheet, rng: np.random.Generator, x_um: float, y_um: float, radius_um: float) -> None:
    lobes = rng.integers(1, 5)
    size = radius_um * (0.6 if lobes == 1 else 0.42)
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(lobes) * 2.2 * rng.uniform(0.7, 1):
        reach = 0.0 if lobes == 1 else 0.38 * radius_um
        centre = (x_um + reach * np.cos(angle), y_um + reach * np.sin(angle))
        mask = view.filled(ring(rng, size, size * rng.uniform(0.7, 1)) + centre)
        dome = view.domed(mask, size * 0.7)
        view.opd_um += dome * np.float32(rng.uniform(0.02, 0.12))
        view.tint(dome, np.array([1.0, 0.8, 1.0]) * rng.uniform(0.0, 0.25) * rng.random())


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
    """Small balls that pinch off from a dying cell."""
    for _ in range(rng.integers(2, 14)):
        angle, reach, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.2), radius_um * rng.uniform(0.06, 0.22)
        centre = (x_um + reach * radius_um * np.cos(angle), y_um + reach * radius_um * np.sin(angle))
        view.ball(*centre, size, rng.uniform(0.02, 0.06))


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
    sheet: Sheet,
    rng: np.random.Generator,
    x_um: float,
    y_um: float,
    radius_um: float,
    opd_um: float,
    dark: float,
    *,
    chromatin: float = 0.22,
) -> None:
    """A round or oval nucleus with a sharp membrane, grainy chromatin and a nucleolus."""
    view = sheet.part(x_um, y_um, 1.5 * radius_um)
    outline = ring(rng, radius_um, radius_um * rng.uniform(0.75, 1), rough=0.03)
    mask = view.filled(turn(outline, rng.uniform(0, np.pi), (x_um, y_um)))
    dome = view.domed(mask, 0.35 * radius_um)
    view.opd_um += np.float32(opd_um) * dome * (1 + np.float32(chromatin) * view.noise(rng, 0.25 * radius_um))
    view.tint(dome, np.array([0.9, 0.9, 1.0]) * dark)
    spot = rng.uniform(-0.35, 0.35, 2) * radius_um
    view.ball(x_um + spot[0], y_um + spot[1], 0.22 * radius_um, 0.04)


def squamous(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A squamous cell: thin polygonal plate of 35 to 60 um, folded edges, sparse granules, small central nucleus."""
    radius = rng.uniform(17, 30)
    crumpled = rng.random() < 0.2
    outline = _plate(rng, radius)
    if crumpled:
        outline = turn(outline * (rng.uniform(0.4, 0.9), rng.uniform(0.5, 1)), rng.uniform(0, np.pi))
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    plate = sheet.domed(mask, rng.uniform(0.8, 2.6))
    thin = rng.uniform(0.08, 0.2)
    sheet.opd_um += plate * np.float32(thin) * (1 + np.float32(rng.uniform(0.1, 0.4)) * sheet.noise(rng, 5))
    # fine grain like sand all over it
    sheet.opd_um += plate * sheet.noise(rng, rng.uniform(0.6, 1.6)) * np.float32(rng.uniform(0, 0.012))
    if crumpled or rng.random() < 0.4:
        ridges = np.exp(-((sheet.noise(rng, rng.uniform(2, 11)) / rng.uniform(0.1, 0.3)) ** 2))
        patchy = 1.5 if crumpled else np.clip(0.5 + sheet.noise(rng, 12), 0, 1)
        sheet.opd_um += plate * ridges * patchy * np.float32(rng.uniform(0.15, 0.9) * thin)
    for _ in range(rng.integers(0, 9 if crumpled else 4)):
        _fold(sheet, rng, outline, mask, thin)
    _granules(sheet, rng, mask, int(rng.uniform(20, 260)), (0.15, 0.5), rng.uniform(0.02, 0.08))
    sheet.tint(plate, np.array([0.03, 0.03, 0.045]) * rng.choice([0.3, 2.2]) * rng.random())
    centre = rng.normal(0, 0.12, 2) * radius
    size, step, dark = rng.uniform(2.6, 4.6), rng.uniform(0.02, 0.2), rng.uniform(0, 0.15)
    _nucleus(sheet, rng, centre[0], centre[1], size, step, dark, chromatin=0.1)
    return sheet


def _plate(rng: np.random.Generator, radius_um: float) -> Points:
    """A polygon with soft corners, hollow or bulging sides, and a slightly frayed edge."""
    shape = corners(rng, radius_um, int(rng.integers(4, 10)), uneven=rng.uniform(0.2, 0.42))
    shape[:, 1] *= rng.uniform(0.65, 1) if rng.random() < 0.8 else rng.uniform(0.3, 0.6)  # or rolled up
    middles = (shape + np.roll(shape, -1, axis=0)) / 2 * rng.uniform(0.85, 1.1, (len(shape), 1))
    outline = rounded(np.stack([shape, middles], axis=1).reshape(-1, 2), 2)
    frayed = rng.normal(0, rng.choice([0.002, 0.012]), (len(outline), 1))
    return turn(outline * (1 + frayed), rng.uniform(0, np.pi))


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
