"""Bacteria, fungi, protozoa and the eggs of worms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalcore.sediment.synthetic.sheet import (
    Floats,
    Points,
    Sheet,
    centred,
    packed,
    ring,
    scattered,
    tube,
    turn,
    wander,
)


def bacterium(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Bacteria: a rod of 1.5 to 4 um, sometimes two end to end, or a coccus, a pair or a short chain of cocci."""
    index = rng.uniform(0.04, 0.13)
    if rng.random() < 0.75:
        sheet = _rods(rng, um_per_px, index)
    else:
        radius = rng.uniform(0.35, 0.6)
        chain = np.stack([np.arange(n := rng.integers(1, 5)) * 1.9 * radius, np.zeros(n)], axis=1)
        centres = centred(turn(chain, rng.uniform(0, 6))) + rng.normal(0, 0.12, (n, 2))
        sheet = Sheet.holding(centres, um_per_px, margin_um=2)
        for x, y in centres:
            sheet.ball(x, y, radius, index)
    sheet.tint(np.minimum(sheet.opd_um / np.float32(0.06), 1), np.full(3, rng.uniform(0, 0.3)))
    return sheet


def _rods(rng: np.random.Generator, um_per_px: float, index: float) -> Sheet:
    length, radius, angle = rng.uniform(1.4, 3.6), rng.uniform(0.3, 0.5), rng.uniform(0, np.pi)
    joints = [0.0] if rng.random() < 0.75 else [-length / 2, length / 2]
    reach = joints[-1] + length / 2
    sheet = Sheet.holding(turn(np.array([[-reach, 0], [reach, 0]]), angle), um_per_px, margin_um=2)
    along, across = sheet.turned(0, 0, angle)
    for joint in joints:
        beyond = np.maximum(np.abs(along - np.float32(joint)) - np.float32(length / 2 - radius), 0)
        squared = np.float32(radius**2) - beyond**2 - across**2
        sheet.opd_um += np.float32(2 * index) * np.sqrt(np.maximum(squared, 0))
    return sheet


def yeast(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Yeast: smooth, refractile ovals of 4 to 8 um, colourless to greenish, most with a bud, some in chains."""
    length = rng.uniform(3.8, 8)
    cells = [(0.0, 0.0, length, rng.uniform(0, 2 * np.pi))]
    for _ in range(int(rng.choice([0, 1, 2, 4, 8], p=[0.3, 0.4, 0.17, 0.08, 0.05]))):
        x, y, mother, angle = cells[rng.integers(len(cells))]
        own = mother * rng.uniform(0.4, 0.95)
        out = angle + rng.normal(0, 0.5) + np.pi * rng.integers(2)
        reach = 0.46 * (mother + own)
        cells.append((x + reach * np.cos(out), y + reach * np.sin(out), own, out))
    centres = np.array([cell[:2] for cell in cells])
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    sheet = Sheet.holding(centres - middle, um_per_px, margin_um=0.5 * length + 2.5)
    index = rng.uniform(0.05, 0.1)
    slim = rng.uniform(0.5, 0.85)
    for x, y, own, angle in cells:
        _yeast_cell(sheet, rng, (x - middle[0], y - middle[1]), own, slim, angle, index)
    return sheet


def _yeast_cell(
    sheet: Sheet,
    rng: np.random.Generator,
    centre: tuple[float, float],
    length_um: float,
    slim: float,
    angle: float,
    index: float,
) -> None:
    view = sheet.part(*centre, 0.6 * length_um)
    outline = turn(ring(rng, length_um / 2, length_um / 2 * slim, rough=0.015), angle) + centre
    mask = view.filled(outline)
    body = view.domed(mask, 0.35 * length_um * slim)
    view.opd_um += body * np.float32(0.8 * index * length_um)
    vacuole = np.array(centre) + rng.normal(0, 0.1, 2) * length_um
    view.ball(vacuole[0], vacuole[1], length_um * rng.uniform(0.06, 0.14), rng.choice([-0.05, 0.06]))
    view.tint(body, np.array([0.1, 0.02, 0.1]) * rng.uniform(0, 1) - rng.uniform(0, 0.3))  # a lens: brighter than urine


def hyphae(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Fungal hyphae: long branching threads 2.5 to 5 um wide with cross walls, smooth and refractile, budding."""
    width = rng.uniform(2.4, 4.8)
    trunk = wander(rng, rng.uniform(45, 150), bend=1.2)
    lines = [trunk]
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(5, 36))
        heading = trunk[start + 1] - trunk[start]
        turned = np.arctan2(heading[1], heading[0]) + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        branch = wander(rng, rng.uniform(12, 55), bend=0.7, steps=24)
        branch -= branch[0]
        branch = turn(branch, turned - np.arctan2(branch[4, 1], branch[4, 0]))
        lines.append(branch + trunk[start])
    everything = np.concatenate(lines)
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    lines = [line - middle for line in lines]
    sheet = Sheet.holding(np.concatenate(lines), um_per_px, margin_um=width + 2.5)
    mask = np.zeros_like(sheet.opd_um)
    walls = []
    for line in lines:
        outline = tube(line, _segments(rng, line, width))
        mask = np.maximum(mask, sheet.filled(outline))
        side = outline[: len(line)] - line
        walls += [
            np.array([line[k] - side[k], line[k] + side[k]]) for k in range(4, len(line) - 2, rng.integers(5, 12))
        ]
    body = sheet.domed(mask, 0.5 * width)
    sheet.opd_um += body * np.float32(rng.uniform(0.18, 0.32))
    sheet.opd_um -= sheet.softened(sheet.stroked(walls, 0.4), 0.15) * mask * np.float32(rng.uniform(0, 0.09))
    for point in scattered(rng, sheet, mask, int(rng.integers(5, 25))):
        sheet.ball(point[0], point[1], rng.uniform(0.2, 0.5), 0.06)
    sheet.tint(body, np.array([0.07, 0.03, 0.08]) * rng.uniform(0, 1.5))
    return sheet


def _segments(rng: np.random.Generator, line: Points, width_um: float) -> NDArray[np.float64]:
    """The width along a hypha: pinched a little at each cross wall, round at the tip."""
    s = np.linspace(0, 1, len(line))
    pinch = np.abs(np.sin(np.pi * s * rng.integers(3, 8))) ** 0.25
    tip = np.sqrt(np.clip((1 - s) * 12, 0, 1))
    return np.maximum(width_um * (0.6 + 0.4 * pinch) * np.maximum(tip, 0.15), 0.3)


def _shelled_egg(sheet: Sheet, rng: np.random.Generator, outline: Points, shell_um: float) -> tuple[Floats, Points]:
    """A double-contoured shell around clear fluid; returns the inner mask and its outline."""
    mask = sheet.filled(outline)
    centre = outline.mean(axis=0)
    radius = np.linalg.norm(outline - centre, axis=1, keepdims=True)
    inner_outline = centre + (outline - centre) * (1 - shell_um / radius)
    inner = sheet.filled(inner_outline)
    sheet.opd_um += sheet.domed(mask, 1.2) * np.float32(rng.uniform(0.25, 0.4))
    sheet.opd_um -= sheet.softened(inner, 0.25) * np.float32(rng.uniform(0.1, 0.2))
    return inner, inner_outline


def _embryo(sheet: Sheet, rng: np.random.Generator, outline: Points, colour: NDArray[np.float64]) -> None:
    """A granular larva or morula that nearly fills an egg."""
    mask = sheet.filled(outline)
    body = sheet.domed(mask, 3)
    sheet.opd_um += body * np.float32(rng.uniform(0.12, 0.3)) * (1 + np.float32(0.2) * sheet.noise(rng, 2.2))
    points = scattered(rng, sheet, mask, int(rng.integers(120, 420)))
    grains = sheet.dotted(points, rng.uniform(0.3, 0.9, len(points)), rng.uniform(0.3, 1, len(points)))
    sheet.opd_um += grains * np.float32(0.08)
    sheet.tint(body * np.clip(0.8 + 0.4 * sheet.noise(rng, 3), 0, 2), colour)


def enterobius_egg(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Pinworm egg: 50 to 60 by 20 to 30 um, one side flattened (a D), thick clear double shell, larva folded inside."""
    length, width = rng.uniform(50, 60), rng.uniform(21, 31)
    theta = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    flat = np.where(np.sin(theta) < 0, rng.uniform(0.15, 0.5), 1.0)
    outline = np.stack([length / 2 * np.cos(theta), width * 0.72 * np.sin(theta) * flat], axis=1)
    outline[:, 1] -= (outline[:, 1].max() + outline[:, 1].min()) / 2
    angle = rng.uniform(0, 2 * np.pi)
    outline = turn(outline, angle)
    sheet = Sheet.holding(outline, um_per_px)
    _, inside = _shelled_egg(sheet, rng, outline, rng.uniform(1.6, 2.6))
    colour = np.array([0.1, 0.14, 0.24]) * rng.uniform(0.4, 1.8)
    _embryo(sheet, rng, inside * rng.uniform(0.82, 0.94), colour)
    fold = turn(np.stack([np.linspace(-0.35, 0.3, 20) * length, 2 * np.sin(np.linspace(0, 6, 20))], axis=1), angle)
    sheet.opd_um -= sheet.softened(sheet.stroked([fold], 1.0), 0.3) * np.float32(rng.uniform(0, 0.16))
    return sheet


def schistosoma_egg(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Schistosoma haematobium egg: spindle of 110 to 160 by 45 to 65 um, yellow-brown, spine at one end, miracidium."""
    length, width = rng.uniform(110, 160), rng.uniform(44, 64)
    theta = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    taper = 1 - 0.25 * np.cos(theta) * rng.uniform(0.2, 1)
    outline = np.stack(
        [length / 2 * np.cos(theta), width / 2 * np.sin(theta) * taper * np.abs(np.sin(theta)) ** 0.15], axis=1
    )
    angle = rng.uniform(0, 2 * np.pi)
    spine_um = rng.uniform(8, 15)
    spine = np.array([[length / 2 - 3, -3.2], [length / 2 + spine_um, rng.normal(0, 1.5)], [length / 2 - 3, 3.2]])
    sheet = Sheet.holding(turn(np.concatenate([outline, spine]), angle), um_per_px)
    sheet.opd_um += sheet.domed(sheet.filled(turn(spine, angle)), 1.5) * np.float32(0.3)
    _, inside = _shelled_egg(sheet, rng, turn(outline, angle), rng.uniform(1.2, 2.2))
    sheet.tint(sheet.filled(turn(outline, angle)), np.array([0.05, 0.1, 0.24]) * rng.uniform(0.4, 1.8))
    _embryo(sheet, rng, inside * rng.uniform(0.8, 0.94), np.array([0.12, 0.18, 0.3]) * rng.uniform(0.4, 1.6))
    return sheet


def trichomonas(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Trichomonas: pear of 9 to 20 um, granular, with four flagella in front, a rippling side and a tail spike."""
    length = rng.uniform(9, 18)
    width = length * rng.uniform(0.55, 0.8)
    theta = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    pear = np.stack([length / 2 * np.cos(theta), width / 2 * np.sin(theta) * (1 + 0.3 * np.cos(theta))], axis=1)
    ripple = np.where(np.sin(theta) > 0.2, 0.25 * np.sin(theta * rng.integers(9, 14)), 0)
    pear[:, 1] += ripple
    flagella = []
    for spread in np.linspace(-0.6, 0.6, 4) + rng.normal(0, 0.15, 4):
        s = np.linspace(0, 1, 20)[:, None]
        whip = (
            np.concatenate([s, 0.14 * np.sin(s * rng.uniform(4, 8) + rng.uniform(0, 6))], axis=1)
            * length
            * rng.uniform(0.6, 1)
        )
        flagella.append(turn(whip - whip[0], spread, (length / 2, 0)))
    tail = np.array([[-length / 2 + 1, 0], [-length * rng.uniform(0.65, 0.8), rng.normal(0, 0.6)]])
    angle = rng.uniform(0, 2 * np.pi)
    everything = np.concatenate([pear, tail, *flagella])
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    sheet = Sheet.holding(turn(everything - middle, angle), um_per_px)
    mask = sheet.filled(turn(pear - middle, angle))
    body = sheet.domed(mask, 0.35 * width)
    sheet.opd_um += body * np.float32(rng.uniform(0.16, 0.3)) * (1 + np.float32(0.15) * sheet.noise(rng, 1.5))
    points = scattered(rng, sheet, mask, int(rng.integers(30, 90)))
    grains = sheet.dotted(points, rng.uniform(0.2, 0.5, len(points)), rng.uniform(0.3, 1, len(points)))
    sheet.opd_um += grains * np.float32(0.07)
    whips = sheet.stroked([turn(line - middle, angle) for line in [*flagella, tail]], rng.uniform(0.2, 0.35))
    sheet.opd_um += sheet.softened(whips, 0.15) * np.float32(rng.uniform(0.06, 0.13))
    nucleus = turn(np.array([[0.22 * length, 0]]) - middle, angle)[0]
    sheet.ball(nucleus[0], nucleus[1], 0.13 * length, 0.035)
    sheet.tint(body, np.array([0.07, 0.06, 0.09]) * rng.uniform(0.3, 2))
    return sheet


def pollen(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """A pollen grain: round, thick-walled, yellow-brown, spiny or knobbly (an artefact)."""
    radius = rng.uniform(9, 18)
    outline = ring(rng, radius, radius * rng.uniform(0.8, 1), rough=0.02)
    knobs = packed(rng, 1, 1.0) if rng.random() < 0.4 else outline[:: int(rng.integers(3, 6))]
    sheet = Sheet.holding(outline, um_per_px, margin_um=4)
    _, inside = _shelled_egg(sheet, rng, outline, rng.uniform(1.2, 2.4))
    for x, y in knobs:
        sheet.ball(x, y, rng.uniform(0.7, 1.5), 0.1)
    _embryo(sheet, rng, 0.95 * inside, np.array([0.2, 0.35, 0.7]) * rng.uniform(0.5, 1.5))
    return sheet
