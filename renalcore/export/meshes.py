"""Surfaces of kidneys and lesions in LPS mm, for a 3D view and as STL.

Marching cubes, smoothed by Taubin's two steps (SIGGRAPH 1995), which do not shrink as one step does, then thinned to a
number of faces by quadric edge collapse. The volume stays that of the voxels within a few per cent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from renalcore.ct.kidneys import SITES, TOUCHING, Site, box_of
from renalcore.ct.measure import Kidney, Lesion, Measures
from renalcore.ct.steps import KIDNEY, LABELS

SHRINK: Final = 0.5
"""How far each point goes towards the middle of its neighbours in the first step; Taubin's lambda."""

GROW: Final = -0.526
"""How far it goes back in the second; Taubin's mu, for a pass band of 1 / 0.5 - 1 / 0.526 = 0.1."""

ROUNDS: Final = 10
"""Rounds of both steps: the stairs of 5 mm slices are gone, the lobes of a kidney are not."""

SMALL: Final = 100
"""Points of a piece below which it is not smoothed: it would vanish, and has no stairs to speak of."""

FACES: Final = 20_000
"""Faces of one organ at the most, for a browser to turn smoothly with several of them."""


_SITES: Final[Mapping[Site, str]] = {
    "right": "right",
    "left": "left",
    "middle": "side-unknown",
    "pelvis_right": "pelvis-right",
    "pelvis_left": "pelvis-left",
    "pelvis_middle": "pelvis-side-unknown",
}
"""What surfaces are named by."""

NAMES: Final = tuple(f"{organ}-{site}" for organ in LABELS.values() for site in _SITES.values())
"""Of all surfaces that `surfaces` may give."""


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """A closed surface of triangles.

    Attributes:
        vertices_mm: `(V, 3)` float32 in LPS mm.
        faces: `(F, 3)` int32 indices of vertices, counter-clockwise seen from outside.
    """

    vertices_mm: NDArray[np.float32]
    faces: NDArray[np.int32]

    @property
    def volume_ml(self) -> float:
        """What it encloses, by the divergence theorem; in ml."""
        return _volume_mm3(self.vertices_mm, self.faces) / 1000


def mesh(
    mask: NDArray[np.bool_], affine: NDArray[np.floating[Any]], *, faces: int = FACES, rounds: int = ROUNDS
) -> Mesh:
    """The surface of a mask.

    Args:
        mask: `(D, H, W)`; the edge of the array closes what it cuts.
        affine: 4 x 4, as that of a `Volume`: `(column, row, slice, 1)`, the reverse of an index, to LPS mm.
        faces: The most that the surface may have, give or take one per hundred.
        rounds: Of smoothing.

    Returns:
        The surface; without any face where the mask is empty.

    Raises:
        ValueError: `faces` or `rounds` makes no sense.
    """
    import fast_simplification  # heavy
    from skimage.measure import marching_cubes

    if faces < 100 or rounds < 0:
        raise ValueError(f"a surface needs 100 faces and no negative rounds, got {faces} and {rounds}")
    held = ndimage.find_objects(mask.view(np.uint8))
    if not held:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    voxels, triangles, _, _ = marching_cubes(np.pad(mask[held[0]], 1).astype(np.float32), 0.5)
    corner = np.array([each.start - 1 for each in held[0]])
    # About the first voxel of the organ: float32 is fine near 0 and coarse a metre away.
    points = (voxels[:, ::-1] @ np.asarray(affine, np.float64)[:3, :3].T).astype(np.float32)
    origin = np.asarray(affine, np.float64)[:3] @ np.array([*corner[::-1], 1.0])
    triangles = triangles.astype(np.int32)
    points = _smoothed(points, triangles, rounds)
    if len(triangles) > faces:
        points, triangles = fast_simplification.simplify(points, triangles, target_count=faces)
    if _volume_mm3(points, triangles) < 0:  # an affine that mirrors turns the faces inside out
        triangles = triangles[:, ::-1]
    return Mesh((points + origin).astype(np.float32), np.ascontiguousarray(triangles, np.int32))


def surfaces(
    labels: NDArray[np.uint8], sites: NDArray[np.uint8], affine: NDArray[np.floating[Any]]
) -> Iterator[tuple[str, Mesh]]:
    """The surface of each label at each site that holds something, with its name: `kidney-right`, `cyst-left` ...

    A kidney in the pelvis is apart from the native one of its side: `kidney-pelvis-right`.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        sites: `(D, H, W)` as `renalcore.ct.measure.sites` tells them.
        affine: 4 x 4, as `mesh` takes it.
    """
    box = box_of(labels)
    within, told, moved = labels[box], sites[box], _moved(affine, box)
    for label, organ in LABELS.items():
        for site, words in _SITES.items():
            mask = (within == label) & (told == SITES.index(site))
            if mask.any():
                yield f"{organ}-{words}", mesh(mask, moved)


def surfaces_of(
    measures: Measures,
    labels: NDArray[np.uint8],
    affine: NDArray[np.floating[Any]],
    *,
    kidney_faces: int = FACES,
    lesion_faces: int = FACES,
) -> Iterator[tuple[Kidney | Lesion, Mesh]]:
    """The surface of the tissue of each kidney, then of each lesion, beside what is measured of it.

    A piece of tissue belongs to the kidney whose centre is nearest; a fused one is cut between the centres of its
    halves.

    Args:
        measures: What is measured on these labels.
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        affine: 4 x 4, as `mesh` takes it.
        kidney_faces: The most of one kidney.
        lesion_faces: The most of one lesion.
    """
    box = box_of(labels)
    within, moved = labels[box], _moved(affine, box)
    numbers = _kidneys(measures, within, moved)
    for kidney in measures.kidneys:
        if (mask := (numbers == kidney.number) & (within == KIDNEY)).any():
            yield kidney, mesh(mask, moved, faces=kidney_faces)
    pieces = {name: ndimage.label(within == label, TOUCHING)[0] for label, name in LABELS.items() if label != KIDNEY}
    for lesion in measures.lesions:
        d, h, w = (index - side.start for index, side in zip(lesion.voxel, box, strict=True))
        if number := pieces[lesion.label][d, h, w]:
            yield lesion, mesh(pieces[lesion.label] == number, moved, faces=lesion_faces)


def _kidneys(measures: Measures, labels: NDArray[np.uint8], affine: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """The number of the kidney of each voxel."""
    pieces, count = ndimage.label(labels > 0, TOUCHING)
    centres = np.array([kidney.centre_lps_mm for kidney in measures.kidneys])
    if not count or not len(centres):
        return np.zeros(labels.shape, np.uint8)
    if any(kidney.place == "fused" for kidney in measures.kidneys):
        columns, rows, slices = (np.arange(length) for length in reversed(labels.shape))
        (to_left, *along), start = affine[0, :3], affine[0, 3]
        x = start + to_left * columns + along[0] * rows[:, None] + along[1] * slices[:, None, None]
        right, left = measures.kidneys[0].number, measures.kidneys[-1].number
        halves: NDArray[np.uint8] = np.where(x < centres[:, 0].mean(), right, left).astype(np.uint8)
        return halves
    at = np.array(ndimage.center_of_mass(pieces > 0, pieces, range(1, count + 1)))
    places = at[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1)
    own = np.array([kidney.number for kidney in measures.kidneys])[nearest]
    numbers: NDArray[np.uint8] = np.concatenate(([0], own)).astype(np.uint8)[pieces]
    return numbers


def _moved(affine: NDArray[np.floating[Any]], box: tuple[slice, ...]) -> NDArray[np.float64]:
    """The affine of a part of the volume."""
    moved = np.array(affine, np.float64)
    moved[:3, 3] = moved[:3] @ [*(each.start for each in reversed(box)), 1.0]
    return moved


def to_stl(surface: Mesh, *, name: str = "") -> bytes:
    """A binary STL file in LPS mm, which 3D Slicer takes from the header.

    Args:
        surface: What to write.
        name: Goes into the header as ASCII, cut to what fits; never a patient's.
    """
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = surface.vertices_mm[surface.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(len(corners), record)
    rows["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    rows["corners"] = corners
    header = f"SPACE=LPS unit mm {name}".encode("ascii", "replace")[:80].ljust(80)
    return header + len(rows).to_bytes(4, "little") + rows.tobytes()


def _smoothed(points: NDArray[np.float32], triangles: NDArray[np.int32], rounds: int) -> NDArray[np.float32]:
    first, second = triangles[:, (0, 1, 2)].ravel(), triangles[:, (1, 2, 0)].ravel()
    ones = np.ones(2 * len(first), np.float32)
    ends = (np.concatenate((first, second)), np.concatenate((second, first)))
    beside = sparse.csr_array((ones, ends), shape=(len(points), len(points)))
    beside.data[:] = 1  # each edge belongs to two triangles
    means = sparse.diags_array((1 / beside.sum(axis=1)).astype(np.float32)) @ beside
    _, pieces = sparse.csgraph.connected_components(beside, directed=False)
    moves = (np.bincount(pieces)[pieces] >= SMALL).astype(np.float32)[:, None]
    for _ in range(rounds):
        for step in (SHRINK, GROW):
            points = points + np.float32(step) * moves * (means @ points - points)
    return points


def _volume_mm3(points: NDArray[np.floating[Any]], triangles: NDArray[np.int32]) -> float:
    """Signed: negative where the faces look inwards."""
    a, b, c = (points[triangles[:, corner]].astype(np.float64) for corner in range(3))
    return float((a * np.cross(b, c)).sum() / 6)
