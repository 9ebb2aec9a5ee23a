"""What a picture of a field is worth: doubts as flags, and the lit disc of one taken through an eyepiece.

`quality` flags, it never refuses; `WITHHELD` says which flags keep a field out of the counts. The numbers were measured
on the 2,018 real fields of the URISED-2K set (720x576 and 800x600, cells of 22 to 59 px; none of them is flagged) and
on copies with Gaussian blur of 0.1 and 0.15 of a cell's diameter; each stands beside the constant it led to. Pictures
are first reduced to a short side of about 600 px, the size of those fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renalcore.types import Detections, QualityFlag, illuminated_area_px

_WORKING_SIDE_PX: Final = 600
# Fine detail over coarse, see `_detail`. Real fields: 0.47 to 2.39, 99 % above 0.58. Below the limit are 96 % of the
# fields blurred by a tenth of a cell's diameter, and all of those blurred by 0.15.
_FOCUS_MIN: Final = 0.40
# Coarse detail in grey levels. Real fields: 5.2 to 49.7, 99 % above 17.
_EMPTY_MAX: Final = 1.5
_LOW_CONTRAST_MAX: Final = 4.0
# Grey levels. Real fields: background (95th percentile) from 145, median from 142 to 218.
_DARK_MAX: Final = 50.0
_BRIGHT_MIN: Final = 250.0
# Share of the field under boxes that score 0.5 or more and are each smaller than a hundredth of it: a sheet of mucus or
# a few squamous cells seen near fill a field without crowding it. Of the 206 held-out real fields of URISED-2K, whose
# particles are all smaller, none reaches the limit (99 % lie below 0.163, the fullest at 0.189). Of 225 pictures made
# by laying 1 to 24 of them over each other, their transmissions multiplied, 44 reach it; of the particles in those, 184
# in the mean, 54 % are found, and of those in single fields 89 %. Where still more lie over each other
# ever less is found, and what is found covers less: a picture crammed full must be known by eye.
_CROWDED_MIN: Final = 0.20
_CROWDED_SCORE: Final = 0.5
_LARGE: Final = 0.01
# White noise of one grey level has, after the two Gaussians of the fine detail, 0.216 of its deviation before them.
_NOISE_LEFT: Final = 0.216

_OUT_OF_FOCUS = QualityFlag(
    "out_of_focus", "The picture looks out of focus: edges are blurred. Focus again and retake it if you can."
)
_NEARLY_EMPTY = QualityFlag(
    "nearly_empty",
    "Almost nothing stands out from the background: an empty field, or one far out of focus. Check it by eye.",
)
_TOO_DARK = QualityFlag("too_dark", "The picture is very dark. Raise the lamp or the exposure and retake it.")
_TOO_BRIGHT = QualityFlag(
    "too_bright", "The background is burnt out to white. Lower the lamp or the exposure and retake it."
)
_LOW_CONTRAST = QualityFlag(
    "low_contrast", "Particles hardly stand out from the background. Close the condenser's aperture a little."
)
_OVERCROWDED = QualityFlag(
    "overcrowded",
    "So much of the field is covered that particles hide each other. Dilute the sediment or choose a thinner place.",
)
_ROUND_FIELD = QualityFlag(
    "round_field", "A round field on black, as through an eyepiece: only the lit disc counts as area."
)


WITHHELD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "out_of_focus": "out of focus",
        "too_dark": "too dark",
        "too_bright": "too bright",
        "overcrowded": "overcrowded",
    }
)
"""Flags that keep a field out of a specimen's counts until a reviewer accepts it, with the reason in words.

The others do not: a field that is `nearly_empty` may be what a healthy patient's urine looks like, and leaving it out
would raise every mean; `low_contrast` and `round_field` are found in as other fields are.
"""


def withheld(codes: Iterable[str]) -> str:
    """Why a field with these flags is not counted, in words; empty where it is."""
    return ", ".join(WITHHELD[code] for code in dict.fromkeys(codes) if code in WITHHELD)


def crowding(
    found: Detections, width_px: int, height_px: int, round_field_px: tuple[float, float, float] | None = None
) -> tuple[QualityFlag, ...]:
    """The doubt that a field is too full to be counted, by what was found in it.

    Args:
        found: All findings, of whatever class.
        width_px: Width of the picture.
        height_px: Height of the picture.
        round_field_px: Its lit disc, where it has one; only that counts as area.
    """
    area_px = illuminated_area_px(width_px, height_px, round_field_px)
    sides_px = found.boxes_px[:, 2:] - found.boxes_px[:, :2]
    boxes_px = found.boxes_px[(found.scores >= _CROWDED_SCORE) & (sides_px.prod(axis=1) < _LARGE * area_px)]
    step = max(1, round(min(width_px, height_px) / _WORKING_SIDE_PX))
    covered = np.zeros((height_px // step + 1, width_px // step + 1), np.bool_)
    for x1, y1, x2, y2 in np.rint(boxes_px / step).astype(int).clip(0).tolist():
        covered[y1:y2, x1:x2] = True
    return (_OVERCROWDED,) if covered.sum() * step**2 >= _CROWDED_MIN * area_px else ()


def judge(pixels: NDArray[np.uint8]) -> tuple[tuple[QualityFlag, ...], tuple[float, float, float] | None]:
    """The doubts about a picture, and its lit disc where it was taken through an eyepiece; see `round_field`."""
    disc = round_field(pixels)
    doubts = quality(_inside(pixels, disc))
    return ((_ROUND_FIELD, *doubts) if disc else doubts), disc


def quality(pixels: NDArray[np.uint8]) -> tuple[QualityFlag, ...]:
    """Doubts about a picture that shows nothing but the field, by the measured limits at the top of this module.

    Focus is judged by the share of fine detail in what stands out most, so neither the number of particles nor their
    contrast matters. A picture without particles cannot be judged and is `nearly_empty` instead.
    """
    grey = _working_copy(pixels)
    flags = []
    if np.percentile(grey, 95) < _DARK_MAX:
        flags.append(_TOO_DARK)
    elif np.median(grey) >= _BRIGHT_MIN:
        flags.append(_TOO_BRIGHT)
    fine, coarse = _detail(grey)
    if coarse < _EMPTY_MAX:
        flags.append(_NEARLY_EMPTY)
    elif fine < _FOCUS_MIN * coarse:
        flags.append(_OUT_OF_FOCUS)
    elif coarse < _LOW_CONTRAST_MAX and not flags:  # else the blur or the light explains it
        flags.append(_LOW_CONTRAST)
    return tuple(flags)


def round_field(pixels: NDArray[np.uint8]) -> tuple[float, float, float] | None:
    """The lit disc `(cx, cy, radius)` in px of a picture taken through an eyepiece, or None for an ordinary picture.

    A disc must be surrounded by black in two corners at least, end in a sharp edge (vignetting fades instead), follow
    a circle over a third of its turn, and leave nothing bright outside. The frame may cut it.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / 512)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    light = float(np.percentile(grey, 90))
    patch = max(2, min(grey.shape) // 40)
    corners = [grey[y, x] for y in (slice(patch), slice(-patch, None)) for x in (slice(patch), slice(-patch, None))]
    dark_corners = sum(float(np.median(corner)) < 0.25 * light for corner in corners)
    if light < 30 or dark_corners < 2:
        return None
    mask = (cv2.medianBlur(grey, 5) >= 0.35 * light).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = max(outlines, key=cv2.contourArea)[:, 0, :].astype(np.float64)
    on_frame = ((rim < 3) | (rim > np.array([grey.shape[1], grey.shape[0]]) - 4)).any(axis=1)
    circle = _fit_circle(rim[~on_frame])
    if circle is None:
        return None
    cx, cy, radius = circle
    if not 0.2 * min(grey.shape) <= radius <= max(grey.shape):
        return None
    rows, columns = np.indices(grey.shape)
    distance = np.hypot(columns - cx, rows - cy) / radius
    outside, inside = distance > 1.03, distance < 0.97
    before, behind = (distance > 0.85) & (distance < 0.95), (distance > 1.05) & (distance < 1.15)
    if outside.mean() < 0.03 or not behind.any():
        return None
    if (grey[outside] >= 0.35 * light).mean() > 0.05 or (grey[inside] >= 0.35 * light).mean() < 0.7:
        return None
    if np.median(grey[before]) < 3 * max(np.median(grey[behind]), 1):
        return None
    return (float((cx + 0.5) * scale), float((cy + 0.5) * scale), float((radius + 0.5) * scale))


def _inside(pixels: NDArray[np.uint8], disc: tuple[float, float, float] | None) -> NDArray[np.uint8]:
    """The largest upright square within the disc, or the whole picture."""
    if disc is None:
        return pixels
    cx, cy, radius = disc
    half = 0.68 * radius
    top, left = max(0, round(cy - half)), max(0, round(cx - half))
    return pixels[top : round(cy + half), left : round(cx + half)]


def _working_copy(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = Image.fromarray(pixels).convert("L")
    factor = max(1, round(min(image.size) / _WORKING_SIDE_PX))
    return np.asarray(image.reduce(factor) if factor > 1 else image, dtype=np.float32)


def _detail(grey: NDArray[np.float32]) -> tuple[float, float]:
    """What stands out most (the 99.9th percentile) between 1 and 2 px, without sensor noise, and between 4 and 8 px."""
    import cv2

    one, two, four, eight = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1, 2, 4, 8))
    # Noise is known by what the smallest Gaussian removes; sharp particles lose little there against what they keep.
    noise = _NOISE_LEFT * 1.4826 * float(np.median(np.abs(grey - one)))
    fine = float(np.percentile(np.abs(one - two), 99.9))
    coarse = float(np.percentile(np.abs(four - eight), 99.9))
    return max(fine**2 - (3.29 * noise) ** 2, 0) ** 0.5, coarse


def _fit_circle(points: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """The circle through most of the points, or None where there is none; dents and spikes are left out in steps."""
    kept = points
    for _ in range(8):
        if len(kept) < 40:
            return None
        centre = kept.mean(axis=0)
        shifted = kept - centre
        system = np.column_stack([shifted, np.ones(len(shifted))])
        a, b, c = np.linalg.lstsq(system, (shifted**2).sum(axis=1), rcond=None)[0]
        cx, cy = a / 2 + centre[0], b / 2 + centre[1]
        radius = float(np.sqrt(max(c + (a**2 + b**2) / 4, 0)))
        misses = np.abs(np.hypot(points[:, 0] - cx, points[:, 1] - cy) - radius)
        kept = points[misses <= max(1.5, 2 * float(np.median(misses)))]
    near = np.abs(np.hypot(points[:, 0] - cx, points[:, 1] - cy) - radius) <= max(2.0, 0.02 * radius)
    angles = np.arctan2(points[near, 1] - cy, points[near, 0] - cx)
    turn = len(np.unique(np.floor((angles + np.pi) / (2 * np.pi) * 36)))
    if near.mean() < 0.75 or turn < 12:
        return None
    return float(cx), float(cy), radius
