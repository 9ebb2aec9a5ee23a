"""Sperm, mucus, free fat, and what should not be there."""

from __future__ import annotations

import numpy as np

from renalcore.sediment.synthetic.crystals import splinter
from renalcore.sediment.synthetic.microorganisms import pollen
from renalcore.sediment.synthetic.sheet import Sheet, packed, ring, tube, turn, wander


def sperm(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Sperm: flat oval head of 4 to 5 um, thicker neck, tail of 40 to 55 um that thins out, straight or curled."""
    tail = wander(rng, rng.uniform(36, 54), bend=rng.choice([0.4, 1.0, 2.2], p=[0.5, 0.35, 0.15]), steps=50)
    sheet = Sheet.holding(tail, um_per_px, margin_um=6)
    heading = tail[0] - tail[3]
    angle = float(np.arctan2(heading[1], heading[0]))
    head = turn(ring(rng, rng.uniform(2.1, 2.7), rng.uniform(1.3, 1.8), rough=0.015), angle)
    middle = tail[0] + 2 * heading / np.linalg.norm(heading)
    mask = sheet.filled(head + middle)
    sheet.opd_um += sheet.domed(mask, 1.1) * np.float32(rng.uniform(0.14, 0.26))
    sheet.tint(mask, np.full(3, rng.uniform(0, 0.25)))
    sheet.opd_um += sheet.filled(tube(tail, np.linspace(0.75, 0.3, 50))) * np.float32(rng.uniform(0.07, 0.13))
    sheet.opd_um += sheet.stroked([tail[:6]], 0.8) * np.float32(0.05)
    return sheet


def mucus(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Mucus: pale, ribbon-like, wavy threads with fine lines along them, of uneven width, tapering to nothing."""
    line = wander(rng, rng.uniform(60, 240), bend=rng.uniform(0.5, 2), steps=60)
    width = rng.uniform(1.5, 11)
    s = np.linspace(0, 1, 60)
    swell = 1 + 0.35 * np.sin(s * rng.uniform(5, 18) + rng.uniform(0, 6))
    widths = np.maximum(width * np.sqrt(np.sin(np.pi * np.clip(s, 0.01, 0.99))) * swell, 0.4)
    sheet = Sheet.holding(line, um_per_px, margin_um=0.8 * width + 2.5)
    body = sheet.domed(sheet.filled(tube(line, widths)), rng.uniform(0.6, 1.5))
    sheet.opd_um += body * np.float32(rng.uniform(0.02, 0.18))
    side = (tube(line, widths)[:60] - line) * 0.95
    for _ in range(rng.integers(1, 8)):
        shift = rng.uniform(-1, 1) + 0.35 * np.sin(s * rng.uniform(3, 12) + rng.uniform(0, 6))
        strand = sheet.stroked([line + side * np.clip(shift, -1, 1)[:, None]], rng.uniform(0.3, 0.9))
        sheet.opd_um += sheet.softened(strand, 0.2) * np.float32(rng.uniform(0.03, 0.13))
    return sheet


def fat_droplet(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Free fat: perfectly round, glistening, yellowish droplets with black rims, one or a few together."""
    radius = float(np.clip(rng.lognormal(np.log(2.6), 0.45), 1, 9))
    count = 1 if rng.random() < 0.6 else int(rng.integers(2, 7))
    centres = packed(rng, count, 2.05 * radius) if count > 1 else np.zeros((1, 2))
    sheet = Sheet.holding(centres, um_per_px, margin_um=1.2 * radius + 2.5)
    for x, y in centres:
        sheet.ball(x, y, radius * (1 if count == 1 else rng.uniform(0.45, 1)), rng.uniform(0.06, 0.13))
    sheet.tint((sheet.opd_um > 0).astype(np.float32), np.array([0.02, 0.05, 0.16]) * rng.uniform(0, 1.8))
    return sheet


def artifact(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """What does not belong to urine: fibre, air bubble, starch, glass splinter, pollen, scratch, dirt."""
    drawers = [fibre, bubble, starch, splinter, pollen, scratch, dirt]
    chosen = drawers[rng.choice(len(drawers), p=[0.24, 0.14, 0.16, 0.12, 0.1, 0.09, 0.15])]
    return chosen(rng, um_per_px)


def fibre(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Textile or paper fibre, or a hair: long, even, strongly outlined, twisted, sometimes dyed."""
    line = wander(rng, rng.uniform(70, 260), bend=rng.uniform(0.3, 1.6), steps=60)
    width = rng.uniform(5, 16)
    twist = 1 - rng.uniform(0, 0.55) * np.abs(np.sin(np.linspace(0, rng.uniform(3, 14), 60))) ** 4
    sheet = Sheet.holding(line, um_per_px, margin_um=0.6 * width + 2.5)
    body = sheet.domed(sheet.filled(tube(line, width * twist)), 0.45 * width)
    sheet.opd_um += body * np.float32(rng.uniform(0.35, 0.9))
    core = sheet.softened(sheet.stroked([line], 0.2 * width), 0.4)
    sheet.opd_um -= core * np.float32(rng.uniform(0, 0.25))
    dye = rng.uniform(0, 0.9, 3) if rng.random() < 0.3 else np.array([0.05, 0.07, 0.1])
    sheet.tint(body, dye)
    return sheet


def bubble(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Air bubble: round, bright inside, broad black ring (air refracts less than urine)."""
    radius = float(np.clip(rng.lognormal(np.log(9), 0.6), 3, 40))
    sheet = Sheet.disc(radius, um_per_px)
    x, y = sheet.grid()
    distance = np.sqrt(x * x + y * y) / np.float32(radius)
    inside = np.clip((1 - distance) * np.float32(radius / sheet.um_per_px) + np.float32(0.5), 0, 1)
    black = inside * np.clip((distance - np.float32(rng.uniform(0.55, 0.75))) * 6, 0, 1)
    sheet.tint(black, np.full(3, rng.uniform(1.2, 2.6)))
    sheet.opd_um -= sheet.domed(inside, 0.5 * radius) * np.float32(rng.uniform(0.3, 0.7))
    return sheet


def starch(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Starch of glove powder: rounded, uneven grain of 6 to 25 um, glistening, with a central dimple or slit."""
    radius = rng.uniform(3, 12)
    outline = ring(rng, radius, radius * rng.uniform(0.75, 1), rough=0.06, waves=5)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    sheet.opd_um += sheet.domed(mask, 0.7 * radius) * np.float32(rng.uniform(0.5, 0.9))
    star = [np.array([[0, 0], [np.cos(a), np.sin(a)]]) * radius * rng.uniform(0.2, 0.45) for a in rng.uniform(0, 6, 3)]
    dimple = sheet.softened(sheet.stroked(star, 0.12 * radius), 0.1 * radius)
    sheet.opd_um -= dimple * np.float32(rng.uniform(0.2, 0.5))
    sheet.tint(mask, np.full(3, rng.uniform(0, 0.1)))
    return sheet


def scratch(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Scratch on the glass: a straight row of short dark nicks, or one thin line."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(40, 160)
    if rng.random() < 0.4:
        nicks = [wander(rng, length, bend=0.05)]
    else:
        places = np.cumsum(rng.uniform(0.5, 1.5, rng.integers(6, 22)))
        nick = np.array([[-0.5, -0.25], [0, 0.1], [0.5, 0.3]]) * rng.uniform(3, 7)
        nicks = [nick * rng.uniform(0.6, 1.2) + (0, (p / places[-1] - 0.5) * length) for p in places]
        nicks = [turn(nick, angle) for nick in nicks]
    sheet = Sheet.holding(np.concatenate(nicks), um_per_px)
    cut = sheet.stroked(nicks, rng.uniform(0.5, 1.3))
    sheet.opd_um -= cut * np.float32(rng.uniform(0.1, 0.4))
    sheet.tint(cut, np.full(3, rng.uniform(0.2, 1.2)))
    return sheet


def dirt(rng: np.random.Generator, um_per_px: float) -> Sheet:
    """Dirt: a black or brown opaque speck or clod of no form."""
    radius = rng.uniform(2, 13)
    outline = ring(rng, radius, radius * rng.uniform(0.5, 1), rough=0.16, waves=12)
    sheet = Sheet.holding(outline, um_per_px)
    mask = sheet.filled(outline)
    sheet.opd_um += sheet.domed(mask, 1.0) * np.float32(rng.uniform(0.1, 0.5))
    clods = np.clip(1 + 0.5 * sheet.noise(rng, 0.5 * radius), 0.2, 2)
    sheet.tint(mask * clods, np.array([0.9, 1.0, 1.15]) * rng.uniform(0.6, 2.2))
    return sheet
