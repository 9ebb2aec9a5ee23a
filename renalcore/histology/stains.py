"""The colours of a section as light that its dyes take away, and the same section as another laboratory dyes it.

Light that passes a dyed section is weakened channel by channel; the logarithm of that, the optical density, adds up
over the dyes (Beer and Lambert; Ruifrok and Johnston, 2001). Glass has none. All that is done here is done to
densities, so glass stays glass.

*Jitter* takes the tile's own two leading dyes apart (Macenko et al., 2009) and changes how much there is of each, and a
little their colour; a third dye remains in what is left over. *Restaining* gives a tile the colours of another stain:
the linear map of densities with least change that carries the tile's matrix of second moments over into that of the
other look (optimal transport between centred Gaussians). Being symmetric and positive it keeps dark what is dark. It
cannot know what a dye would bind to: basement membranes do not turn black because the look is a silver one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]

_TISSUE: Final = 0.35
"""Sum of the three densities from which on a pixel shows tissue."""
_BLACK: Final = 11.0
"""Sum of the densities from which on nothing was imaged: black frames and padding."""
_FEWEST_PX: Final = 200
"""Fewer pixels of tissue say nothing about its dyes."""
_GAINS: Final = (0.3, 3.0)
"""What a look may do to a density: more would amplify the camera's noise."""


@dataclass(frozen=True, slots=True)
class Recolouring:
    """How often and how far the dyes of a tile change.

    Attributes:
        restained: Probability of another stain's look.
        kept: Share of the own look that remains at most.
        jittered: Probability of other amounts and colours of the tile's own dyes.
        amount: Largest relative change of the amount of a dye.
        colour: Largest change of a dye's density in a channel; its vector has length 1.
        steepness: Largest exponent that makes dense places denser and pale ones paler, and its inverse.
        lit: Probability of another lamp: dimmer, and tinted.
        dim: The darkest that glass becomes, in grey levels.
        tint: Largest relative gain of a channel.
    """

    restained: float = 0.35
    kept: float = 0.4
    jittered: float = 0.6
    amount: float = 0.4
    colour: float = 0.08
    steepness: float = 1.4
    lit: float = 0.4
    dim: float = 150.0
    tint: float = 0.06


def glass_of(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What glass looks like in a picture, `(3,)` grey levels: the brightest two hundredths of it, channel by channel.

    Lumens of tubules and vessels show it wherever there is tissue; a picture without any is taken to be 60 at least.

    Args:
        pixels: `(..., 3)`, some of its pixels are enough.
    """
    return np.clip(np.percentile(pixels.reshape(-1, 3), 98, axis=0), 60.0, 255.0)


def densities(pixels: Image, glass: NDArray[np.float64]) -> NDArray[np.float32]:
    """Optical density of each pixel and channel, natural logarithm: 0 where it is as bright as glass."""
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = (np.log(glass + 1) - np.log(levels + 1)).astype(np.float32)
    return np.asarray(cv2.LUT(pixels, table[:, None]), np.float32)


def moments(density: NDArray[np.float32]) -> Matrix | None:
    """Second moments about 0 of the densities of the tissue, `(3, 3)`; None where there is too little of it."""
    tissue = _tissue(density)
    if tissue is None:
        return None
    return (tissue.T @ tissue / len(tissue)).astype(np.float64)


def _tissue(density: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """A third of the pixels of tissue, `(N, 3)`; None where they are too few."""
    flat = density.reshape(-1, 3)[::3]
    total = flat.sum(1)
    tissue = flat[(total > _TISSUE) & (total < _BLACK)]
    return tissue if len(tissue) >= _FEWEST_PX else None


def transport(own: Matrix, other: Matrix) -> Matrix:
    """The symmetric map that carries second moments over into others, its gains limited to `_GAINS`."""
    root = _root(own + np.eye(3) * 1e-3 * np.trace(own))
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ _root(root @ other @ root) @ inverse)
    limited: Matrix = (vectors * np.clip(values, *_GAINS)) @ vectors.T
    return limited


def _root(matrix: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    root: Matrix = (vectors * np.sqrt(np.maximum(values, 1e-9))) @ vectors.T
    return root


def recolour(
    pixels: Image, options: Recolouring, rng: np.random.Generator, *, shown: NDArray[np.bool_] | None = None
) -> Image:
    """The same tile as another laboratory might show it.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        options: How often and how far.
        rng: What decides.
        shown: `(H, W)`, False where the tile lies beyond its slide, which tells nothing of dyes and glass.
    """
    restained, jittered, lit = (rng.random(3) < (options.restained, options.jittered, options.lit)).tolist()
    if not (restained or jittered or lit):
        return pixels
    sample = pixels[::3, ::3] if shown is None else pixels[::3, ::3][shown[::3, ::3]]
    if not sample.size:
        return pixels
    glass = glass_of(sample)
    density = densities(pixels, glass)
    own = moments(densities(sample.reshape(-1, 1, 3), glass))
    if own is not None and restained:
        look = _look(rng)
        kept = rng.uniform(0, options.kept)
        change = (1 - kept) * transport(own, look) + kept * np.eye(3)
        density = density @ change.astype(np.float32)
        density = _steepened(density, options, rng)
    if own is not None and jittered:
        density = density @ _jitter(density if shown is None else density[shown], options, rng)
    if lit:
        glass = np.minimum(rng.uniform(options.dim, 252) * (1 + rng.uniform(-options.tint, options.tint, 3)), 255)
    levels = np.exp(np.clip(-density, -4.0, 0.1)) * glass.astype(np.float32)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def _look(rng: np.random.Generator) -> Matrix:
    """The moments of a random stain: between two of its looks, and stronger or weaker."""
    stain = list(LOOKS.values())[rng.integers(len(LOOKS))]
    one, other = (_symmetric(stain[index]) for index in rng.integers(len(stain), size=2))
    share = rng.random()
    mixed: Matrix = (share * one + (1 - share) * other) * np.exp(rng.uniform(-0.4, 0.4))
    return mixed


def _symmetric(upper: tuple[float, ...]) -> Matrix:
    rr, rg, rb, gg, gb, bb = upper
    return np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])


def _steepened(density: NDArray[np.float32], options: Recolouring, rng: np.random.Generator) -> NDArray[np.float32]:
    """Dense places denser and pale ones paler, or the other way round; colours stay."""
    power = float(np.exp(rng.uniform(-1, 1) * np.log(options.steepness))) - 1
    total = np.maximum(density.mean(2), 0.02)
    middle = max(float(np.median(total)), 0.1)
    return np.asarray(density * np.clip((total / middle) ** power, 0.4, 2.0)[:, :, None], np.float32)


def _jitter(density: NDArray[np.float32], options: Recolouring, rng: np.random.Generator) -> NDArray[np.float32]:
    """A map of densities that changes amount and colour of the two leading dyes and leaves the rest."""
    dyes = _dyes(density)
    if dyes is None:
        return np.eye(3, dtype=np.float32)
    changed = dyes + rng.uniform(-options.colour, options.colour, dyes.shape)
    amounts = np.exp(rng.uniform(-1, 1, 2) * np.log1p(options.amount))
    apart = np.linalg.pinv(dyes)  # (3, 2): densities to amounts
    change = np.eye(3) - apart @ dyes + apart @ (amounts[:, None] * changed)
    return np.asarray(change, np.float32)


def _dyes(density: NDArray[np.float32]) -> Matrix | None:
    """The two leading dyes of a tile as rows of length 1, that with more red density first (Macenko et al., 2009)."""
    tissue = _tissue(density)
    if tissue is None:
        return None
    _, vectors = np.linalg.eigh(np.cov(tissue.T))
    plane = vectors[:, [2, 1]] * np.where(vectors[:, [2, 1]].sum(0) < 0, -1, 1)
    angles = np.arctan2(*(tissue @ plane).T[::-1])
    ends = np.percentile(angles, [2, 98])
    if ends[1] - ends[0] < 0.05:
        return None
    dyes: Matrix = np.array([plane @ (np.cos(end), np.sin(end)) for end in ends])
    return dyes[np.argsort(-dyes[:, 0])]


LOOKS: Final[Mapping[str, tuple[tuple[float, ...], ...]]] = MappingProxyType(
    {
        "H&E": (
            (0.119, 0.202, 0.133, 0.359, 0.234, 0.154),
            (0.267, 0.577, 0.208, 1.283, 0.461, 0.168),
            (0.090, 0.261, 0.161, 0.808, 0.495, 0.304),
            (0.098, 0.107, 0.077, 0.119, 0.085, 0.062),
            (0.194, 0.326, 0.134, 0.562, 0.229, 0.096),
            (0.032, 0.108, 0.068, 0.413, 0.256, 0.160),
        ),
        "PAS": (
            (0.166, 0.298, 0.113, 0.543, 0.203, 0.077),
            (0.337, 0.711, 0.368, 1.672, 0.829, 0.423),
            (0.209, 0.525, 0.107, 1.408, 0.272, 0.057),
            (0.583, 0.786, 0.256, 1.132, 0.349, 0.118),
            (0.097, 0.131, 0.083, 0.186, 0.114, 0.073),
        ),
        "trichrome": (
            (0.520, 0.626, 0.364, 0.865, 0.527, 0.331),
            (0.357, 0.833, 0.508, 2.260, 1.338, 0.801),
            (1.593, 1.550, 0.740, 1.662, 0.834, 0.437),
            (0.230, 0.250, 0.162, 0.295, 0.194, 0.132),
            (0.800, 1.081, 0.691, 1.625, 1.055, 0.706),
            (1.196, 0.984, 0.418, 0.872, 0.394, 0.190),
        ),
        "silver": (
            (0.845, 0.957, 0.646, 1.107, 0.745, 0.522),
            (1.740, 2.841, 1.659, 5.206, 2.825, 1.648),
            (3.411, 3.294, 2.287, 3.229, 2.258, 1.645),
            (0.262, 0.289, 0.211, 0.322, 0.233, 0.176),
            (2.006, 2.047, 1.421, 2.120, 1.475, 1.058),
            (1.153, 2.275, 1.163, 5.081, 2.399, 1.213),
        ),
    }
)
"""Second moments (rr, rg, rb, gg, gb, bb) of the densities of 23 human kidney fields that differ most from each other
among 225 in four stains; measured with `moments`."""
