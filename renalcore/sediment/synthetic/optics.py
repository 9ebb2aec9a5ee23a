"""Microscope and camera: from a particle's sheet to light, and from light to the picture a laboratory gets.

Focus is what makes sediment visible. To first order (transport of intensity) a phase object seen `z` um out of
focus changes the light by `-z` times the Laplacian of its optical path: a dark rim with a bright halo on one side
of focus, a bright rim on the other. Steep facets bend light past the objective and go dark; an off-centre
condenser shades one flank. These three terms, a blur and the pigment are all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.sediment.synthetic.sheet import Floats, Sheet, blurred

_BACKGROUNDS = (
    # red, green, blue of an empty field at full light; weights follow how common such microscopes are
    ((0.74, 0.74, 0.66), 0.18),  # halogen through a green-grey filter
    ((0.64, 0.69, 0.62), 0.12),  # greenish grey
    ((0.58, 0.66, 0.70), 0.08),  # bluish grey
    ((0.73, 0.68, 0.56), 0.08),  # tan
    ((0.80, 0.79, 0.80), 0.14),  # neutral LED
    ((0.84, 0.80, 0.62), 0.08),  # warm halogen
    ((0.68, 0.72, 0.82), 0.10),  # blue daylight filter
    ((0.66, 0.76, 0.68), 0.06),  # green
    ((0.72, 0.66, 0.64), 0.08),  # pinkish white balance
    ((0.92, 0.93, 0.95), 0.08),  # bright, nearly white
)


@dataclass(frozen=True, slots=True)
class Light:
    """One microscope and camera as they stood for one field.

    Attributes:
        colour: Red, green, blue of the empty field, 0..1.
        gradient: Change of light across the field, to the right and downwards, as shares.
        vignetting: Share of light lost in the corners.
        blotches: Spread of slow random unevenness, as a share.
        focus_um: Typical distance of particles from focus; negative gives dark rims with bright halos.
        depth_um: Spread of particles about that distance.
        resolution_um: Blur of the objective in focus (standard deviation).
        contrast: How strongly focus and slopes show: a closed condenser is above 1, an open one below.
        tilt: Oblique light, to the right and downwards.
        colour_fringe: Difference of focus between red and blue, as a share.
        halo_radius_um: Width of the diffraction halo around edges.
        halo: Strength of that halo.
        sharpening: Strength of the camera's own edge enhancement.
        gamma: Tone curve; above 1 darkens the middle.
        range_share: Share of the full tonal range used; low is a flat, low-contrast camera.
        noise: Sensor noise (standard deviation, 0..1).
        noise_grain_px: Size of a noise grain.
        noise_colour: Spread of coloured noise against grey noise; it is coarser, as cameras interpolate colour.
        jpeg_quality: 30..100, or None for no JPEG artefacts.
        round_field: Centre (shares of width and height) and radius (share of the shorter side) of the bright disc
            of a phone picture through an eyepiece, or None.
    """

    colour: tuple[float, float, float] = (0.74, 0.74, 0.66)
    gradient: tuple[float, float] = (0.0, 0.0)
    vignetting: float = 0.0
    blotches: float = 0.0
    focus_um: float = -1.0
    depth_um: float = 0.3
    resolution_um: float = 0.22
    contrast: float = 1.0
    tilt: tuple[float, float] = (0.0, 0.0)
    colour_fringe: float = 0.1
    halo_radius_um: float = 0.7
    halo: float = 0.0
    sharpening: float = 0.0
    gamma: float = 1.0
    range_share: float = 1.0
    noise: float = 0.0
    noise_grain_px: float = 0.6
    noise_colour: float = 0.5
    jpeg_quality: int | None = None
    round_field: tuple[float, float, float] | None = None

    @classmethod
    def sampled(cls, rng: np.random.Generator, *, round_field: bool = False, low_power: bool = False) -> Light:
        """A random microscope: grey, yellowish, bluish, greenish or pinkish, good or poor.

        Args:
            rng: Decides.
            round_field: A phone picture through an eyepiece.
            low_power: A 10x objective: it resolves less, and what it shows lies farther from focus.
        """
        colours, weights = zip(*_BACKGROUNDS, strict=True)
        colour = np.array(colours[rng.choice(len(colours), p=np.array(weights) / sum(weights))])
        brightness = rng.uniform(0.85, 1.08) if rng.random() < 0.75 else rng.uniform(0.4, 0.85)
        red, green, blue = np.clip(colour * brightness * rng.normal(1, 0.025, 3), 0.12, 0.985)
        poor = rng.random() < 0.2
        farther = rng.uniform(1.5, 4) if low_power else 1.0
        disc = (rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.4, 0.62)) if round_field else None
        return cls(
            colour=(float(red), float(green), float(blue)),
            gradient=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.06))),
            vignetting=float(rng.uniform(0.05, 0.4)) if round_field or rng.random() < 0.3 else rng.uniform(0, 0.08),
            blotches=float(rng.gamma(2, 0.004 if rng.random() < 0.8 else 0.008)),
            focus_um=float(-rng.uniform(0.4, 1.8) if rng.random() < 0.72 else rng.uniform(0.4, 1.6)) * farther,
            depth_um=float(rng.gamma(2, 0.17)) * farther,
            resolution_um=float(rng.uniform(0.1, 0.24) if not poor else rng.uniform(0.24, 0.45)) * min(farther, 2.5),
            contrast=float(np.exp(rng.normal(0.15, 0.3))) * (0.7 if poor else 1.0),
            tilt=(float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25))),
            colour_fringe=float(rng.normal(0, 0.2)),
            halo=float(rng.uniform(0, 1.8)),
            halo_radius_um=float(rng.uniform(0.4, 1.3)) * farther,
            sharpening=float(rng.uniform(0, 1.8)) if rng.random() < 0.65 else 0.0,
            gamma=float(np.exp(rng.normal(0, 0.15))),
            range_share=float(rng.uniform(0.45, 0.8)) if poor else float(rng.uniform(0.8, 1.0)),
            noise=float(rng.gamma(2, 0.006)),
            noise_grain_px=float(rng.uniform(0.3, 1.1)),
            noise_colour=float(rng.uniform(0, 1)),
            jpeg_quality=int(rng.integers(45, 97)) if rng.random() < 0.7 else None,
            round_field=disc,
        )


def transmission(sheet: Sheet, light: Light, z_um: float) -> Floats:
    """The factor `(H, W, 3)` by which the particle on `sheet`, `z_um` out of focus, changes the light behind it."""
    blur_px = float(np.hypot(light.resolution_um, 0.18 * z_um)) / sheet.um_per_px
    opd = blurred(sheet.opd_um, blur_px)
    slope_x = cv2.Sobel(opd, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * sheet.um_per_px))
    slope_y = cv2.Sobel(opd, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * sheet.um_per_px))
    bend = cv2.Laplacian(opd, cv2.CV_32F, ksize=3, scale=1 / (4 * sheet.um_per_px**2))
    # saturation keeps facets from black-out and caustics from burning: light never falls below nor rises above these
    focus = np.float32(0.9) * np.tanh(np.float32(light.contrast * z_um / 0.9) * bend)
    focus = np.where(focus < 0, np.float32(0.45) * focus, focus)
    lost = np.float32(1.6 * light.contrast) * np.tanh(np.float32(3.5) * (slope_x**2 + slope_y**2))
    shade = 0.5 * np.tanh(
        np.float32(2 * light.tilt[0] * light.contrast) * slope_x
        + np.float32(2 * light.tilt[1] * light.contrast) * slope_y
    )
    pigment = blurred(sheet.pigment, blur_px)
    fringe = np.array([1 - light.colour_fringe, 1.0, 1 + light.colour_fringe], np.float32)
    result: Floats = np.exp(-(pigment + focus[..., None] * fringe + (lost + shade)[..., None]))
    return result


def background(width_px: int, height_px: int, light: Light, rng: np.random.Generator) -> Floats:
    """The empty field `(H, W, 3)`: colour, slope of light, vignetting, slow blotches."""
    x = np.linspace(-1, 1, width_px, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height_px, dtype=np.float32)[:, None]
    level = 1 + np.float32(light.gradient[0]) * x + np.float32(light.gradient[1]) * y
    level = level * (1 - np.float32(light.vignetting) * (x * x + y * y) / 2)
    for cells in (5, 11):
        coarse = rng.standard_normal((cells, cells), np.float32) * np.float32(light.blotches)
        level = level * (1 + cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC))
    field: Floats = level[..., None] * np.array(light.colour, np.float32)
    return field


def photograph(scene: Floats, light: Light, rng: np.random.Generator, um_per_px: float) -> NDArray[np.uint8]:
    """The picture a camera makes of `scene`: halo, tone, sharpening, noise, eyepiece, JPEG."""
    if light.halo > 0:
        scene = scene + np.float32(light.halo) * (scene - blurred(scene, light.halo_radius_um / um_per_px))
    if light.sharpening > 0:
        scene = scene + np.float32(light.sharpening) * (scene - blurred(scene, 1.3))
    if light.range_share < 1:
        middle = np.array(light.colour, np.float32)
        scene = middle + np.float32(light.range_share) * (scene - middle)
    scene = np.clip(scene, 0, 1, dtype=np.float32)
    if light.gamma != 1:
        scene = cv2.pow(scene, light.gamma)
    if light.round_field is not None:
        scene = scene * _eyepiece(scene.shape[1], scene.shape[0], light.round_field)[..., None]
    if light.noise > 0:
        height, width = scene.shape[:2]
        grey = blurred(rng.standard_normal((height, width), np.float32), light.noise_grain_px)
        colour = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32) * np.float32(light.noise_colour)
        colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
        strength = np.float32(light.noise) * (np.float32(0.4) + np.float32(0.6) * np.sqrt(scene))
        scene = scene + (grey[..., None] * np.float32(1 + 1.5 * light.noise_grain_px) + colour) * strength
    picture = np.clip(scene * 255 + 0.5, 0, 255).astype(np.uint8)
    return picture if light.jpeg_quality is None else _through_jpeg(picture, light.jpeg_quality)


def _eyepiece(width_px: int, height_px: int, disc: tuple[float, float, float]) -> Floats:
    """1 within the bright disc, 0 on the black around it, with the soft edge of a field stop."""
    cx, cy, radius = disc[0] * width_px, disc[1] * height_px, disc[2] * min(width_px, height_px)
    x = np.arange(width_px, dtype=np.float32)[None, :] - np.float32(cx)
    y = np.arange(height_px, dtype=np.float32)[:, None] - np.float32(cy)
    soft = np.float32(max(2.0, 0.006 * width_px))
    inside: Floats = np.clip((np.float32(radius) - np.sqrt(x * x + y * y)) / soft + np.float32(0.5), 0, 1)
    return inside


def _through_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: NDArray[np.uint8] = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return decoded
