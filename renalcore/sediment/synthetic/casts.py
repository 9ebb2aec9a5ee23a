"""Casts: the inside of a tubule, moulded in protein, and what stuck to it."""

from __future__ import annotations

import numpy as np

from renalcore.sediment.synthetic.cells import add_rbc, add_wbc
from renalcore.sediment.synthetic.sheet import Floats, Points, Sheet, scattered, tube, wander

_STEPS = 40


def _mould(
    rng: np.random.Generator,
    um_per_px: float,
    *,
    width_um: tuple[float, float] = (14, 34),
    length_um: tuple[float, float] = (55, 200),
    blunt: float = 0.5,
    bend: float = 0.28,
) -> tuple[Sheet, Floats, Points, float]:
    """A cast's shape: a bent tube with nearly parallel sides whose ends are round, tapered or broken off (`blunt`).

    Returns:
        The empty sheet, the mask of the tube, its centre line, its width in um.
    """
    width = rng.uniform(*width_um)
    length = max(rng.uniform(*length_um), 2 * width)
    line = wander(rng, length, bend=bend, steps=_STEPS)
    s = np.linspace(0, 1, _STEPS)
    profile = np.ones(_STEPS)
    for end in (s, 1 - s):
        reach = np.clip(end * length / (0.5 * width), 0, 1)
        if rng.random() < blunt:
            corner = np.clip(reach / rng.uniform(0.2, 0.6), 0, 1)
            profile *= np.sqrt(0.3 + 0.7 * (1 - (1 - corner) ** 2))
        else:
            taper = np.clip(end / rng.uniform(0.05, 0.35), 0, 1)
            profile *= np.sqrt(np.clip(1 - (1 - reach) ** 2, 0, 1)) * (0.55 + 0.45 * taper)
    waver = 1 + 0.06 * np.sin(s * rng.uniform(4, 14) + rng.uniform(0, 6)) + rng.normal(0, 0.01, _STEPS)
    outline = tube(line, np.maximum(width * profile * waver, 0.3))
    sheet = Sheet.holding(outline, um_per_px)
    return sheet, sheet.filled(outline), line, width


def _matrix(sheet: Sheet, rng: np.random.Generator, mask: Floats, width_um: float, opd_um: float) -> Floats:
    """Fill the mould with protein of low refraction; returns the rounded body."""
    body = sheet.domed(mask, width_um * rng.uniform(0.1, 0.3))
    sheet.opd_um += body * np.float32(opd_um) * (1 + np.float32(0.1) * sheet.noise(rng, 4))
    return body


def _grains(
    sheet: Sheet,
    rng: np.random.Generator,
    mask: Floats,
    per_um2: float,
    radii_um: tuple[float, float],
    opd_um: float,
    dark: float,
) -> None:
    count = int(per_um2 * mask.sum() * sheet.um_per_px**2)
    points = scattered(rng, sheet, mask, min(count, 2500))
    dots = sheet.dotted(points, rng.uniform(*radii_um, len(points)), rng.uniform(0.3, 1, len(points)))
    sheet.opd_um += dots * np.float32(opd_um)
    sheet.tint(dots, np.array([0.85, 1.0, 1.2]) * dark)


def hyaline(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Hyaline cast: colourless, nearly invisible tube with parallel sides and round ends, a few streaks and grains."""
    sheet, mask, line, width = _mould(rng, um_per_px, blunt=0.15, length_um=(70, 260))
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.14, 0.32))
    for offset in rng.uniform(-0.4, 0.4, rng.integers(0, 4)) * width:
        streak = sheet.stroked([line[5:-5] + rng.normal(0, 0.3, 2) + offset * 0.7], 0.6)
        sheet.opd_um += streak * mask * np.float32(0.02)
    _grains(sheet, rng, mask, rng.uniform(0, 0.03), (0.2, 0.5), 0.06, 0.02)
    sheet.tint(body, np.array([0.02, 0.02, 0.03]) * rng.uniform(0, 2))
    return sheet


def granular(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Granular cast: the tube is full of fine or coarse grains, grey to yellowish brown."""
    sheet, mask, _, width = _mould(rng, um_per_px, blunt=0.4, length_um=(50, 180))
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.1, 0.2))
    coarse = rng.uniform(0.3, 1.1)
    _grains(sheet, rng, mask, rng.uniform(0.3, 0.9), (0.3 * coarse, 1.1 * coarse), 0.12 * coarse, rng.uniform(0.1, 0.3))
    sheet.opd_um += body * sheet.noise(rng, 0.9 * coarse + 0.3) * np.float32(0.04)
    clouds = np.clip(0.6 + 0.5 * sheet.noise(rng, 7), 0, 2)
    sheet.tint(body * clouds, np.array([0.14, 0.17, 0.25]) * rng.uniform(0.5, 1.8))
    return sheet


def muddy_brown(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Muddy brown cast: short ragged tube packed with coarse dark-brown pigmented grains."""
    sheet, mask, _, width = _mould(rng, um_per_px, blunt=0.6, length_um=(40, 130), width_um=(14, 36))
    mask = mask * (sheet.noise(rng, 4) + 0.4 * sheet.depth_um(mask) > -1.0)
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.12, 0.25))
    _grains(sheet, rng, mask, rng.uniform(0.4, 1.2), (0.25, rng.uniform(0.7, 1.4)), 0.1, rng.uniform(0.2, 0.5))
    sheet.opd_um += body * sheet.noise(rng, rng.uniform(0.8, 1.6)) * np.float32(0.06)
    clouds = np.clip(0.8 + 0.4 * sheet.noise(rng, 3) + 0.3 * sheet.noise(rng, 1), 0.1, 2)
    brown = np.array([0.3, 0.52, 0.85]) * rng.uniform(0.55, 1.3)
    sheet.tint(body * clouds, brown)
    return sheet


def waxy(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Waxy cast: broad, homogeneous, dull yellow-grey, sharp dark edges, blunt broken ends, cracks from the side."""
    sheet, mask, line, width = _mould(rng, um_per_px, blunt=0.95, width_um=(22, 48), length_um=(60, 220), bend=0.3)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    for _ in range(rng.integers(1, 6)):
        k, side = rng.integers(4, _STEPS - 4), rng.choice([-1, 1])
        crack = line[k] + normal[k] * side * width * np.linspace(0.55, rng.uniform(0, 0.25), 6)[:, None]
        crack += rng.normal(0, 0.35, (6, 2))
        mask = mask * (1 - sheet.stroked([crack], rng.uniform(0.5, 1.4)))
    body = sheet.domed(mask, rng.uniform(1.5, 4.5))
    sheet.opd_um += body * np.float32(rng.uniform(0.4, 0.9)) * (1 + np.float32(0.06) * sheet.noise(rng, 5))
    mottled = body * (1 + np.float32(0.15) * sheet.noise(rng, 9))
    sheet.tint(mottled, np.array([0.10, 0.12, 0.2]) * rng.uniform(0.5, 1.8))
    return sheet


def _cells_along(
    rng: np.random.Generator, line: Points, width_um: float, spacing_um: float, fill: float
) -> list[tuple[float, float]]:
    """Centres of cells packed across and along a tube; `fill` is the share of places taken."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    rows = max(1, int(width_um / spacing_um))
    centres = []
    for s in np.arange(spacing_um, lengths[-1] - 0.5 * spacing_um, spacing_um):
        k = min(int(np.searchsorted(lengths, s)), len(line) - 1)
        for row in (np.arange(rows) - (rows - 1) / 2) * spacing_um * 0.95:
            if rng.random() < fill:
                x, y = line[k] + normal[k] * row + rng.normal(0, 0.22 * spacing_um, 2)
                centres.append((float(x), float(y)))
    return centres


def rbc_cast(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Red-cell cast: a tube of closely packed red cells, orange to rust brown."""
    sheet, mask, line, width = _mould(rng, um_per_px, width_um=(13, 28), length_um=(45, 140), blunt=0.5)
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.1, 0.2))
    for x, y in _cells_along(rng, line, width, rng.uniform(4.4, 5.8), rng.uniform(0.75, 1)):
        add_rbc(sheet, rng, x, y, rng.normal(3.1, 0.25))
    _grains(sheet, rng, mask, rng.uniform(0, 0.25), (0.2, 0.6), 0.08, 0.1)
    sheet.tint(body, np.array([0.08, 0.26, 0.46]) * rng.uniform(0.4, 1.6))
    return sheet


def mixed_cell(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Mixed cell cast: leukocytes, tubular cells and red cells in one granular tube."""
    sheet, mask, line, width = _mould(rng, um_per_px, width_um=(17, 36), length_um=(55, 160), blunt=0.4)
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.12, 0.22))
    share = rng.uniform(0.3, 0.8)
    for x, y in _cells_along(rng, line, 0.8 * width, rng.uniform(7.5, 9.5), rng.uniform(0.65, 1)):
        if rng.random() < share:
            add_wbc(sheet, rng, x, y, rng.normal(5.2, 0.6))
        else:
            add_rbc(sheet, rng, x, y, rng.normal(3.2, 0.2))
    _grains(sheet, rng, mask, rng.uniform(0.1, 0.4), (0.2, 0.7), 0.09, rng.uniform(0.05, 0.2))
    sheet.tint(body, np.array([0.1, 0.13, 0.2]) * rng.uniform(0.4, 1.5))
    return sheet


def lipid(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Fatty cast: a tube set with highly refractile round droplets of many sizes, black-rimmed with bright centres."""
    sheet, mask, _, width = _mould(rng, um_per_px, width_um=(15, 34), length_um=(50, 150), blunt=0.3)
    body = _matrix(sheet, rng, mask, width, rng.uniform(0.08, 0.18))
    count = int(min(rng.uniform(0.02, 0.09) * mask.sum() * sheet.um_per_px**2, 220))
    for x, y in scattered(rng, sheet, mask, count):
        sheet.ball(x, y, float(np.clip(rng.gamma(2.5, 0.45), 0.4, 4.5)), rng.uniform(0.06, 0.12))
    _grains(sheet, rng, mask, rng.uniform(0.05, 0.3), (0.2, 0.6), 0.08, 0.08)
    sheet.tint(body, np.array([0.09, 0.12, 0.2]) * rng.uniform(0.3, 1.5))
    return sheet
