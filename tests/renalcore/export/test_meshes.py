"""Surfaces of organs: where they lie, what they enclose, and what STL readers are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renalcore.ct.measure import Kidney, measure
from renalcore.ct.nifti import read_nifti
from renalcore.export.meshes import mesh, surfaces_of, to_stl
from tests.renalcore.ct.bright import LEFT, RIGHT, body

AFFINE = np.array([[0.8, 0, 0, -100], [0, 0.8, 0, 50], [0, 0, 2.5, 1500], [0, 0, 0, 1.0]])


def ball(radius_mm: float) -> np.ndarray:
    z, y, x = np.ogrid[-20:21, -60:61, -60:61]
    return (z * 2.5) ** 2 + (y * 0.8) ** 2 + (x * 0.8) ** 2 <= radius_mm**2


def test_the_surface_of_a_ball_encloses_what_its_voxels_hold_within_few_faces() -> None:
    mask = ball(30.0)
    surface = mesh(mask, AFFINE, faces=2000)
    assert 1500 < len(surface.faces) <= 2000
    assert surface.volume_ml == pytest.approx(np.count_nonzero(mask) * 0.8 * 0.8 * 2.5 / 1000, rel=0.02)
    radii = np.linalg.norm(surface.vertices_mm - [-100 + 60 * 0.8, 50 + 60 * 0.8, 1500 + 20 * 2.5], axis=1)
    assert (np.abs(radii - 30.0) < 2.0).all()  # less than a slice: smooth, and in its place


def test_faces_look_outwards_also_where_the_affine_mirrors() -> None:
    mirrored = AFFINE @ np.diag([1, -1, 1, 1])
    assert mesh(ball(20.0), mirrored).volume_ml > 0
    assert mesh(ball(20.0), mirrored).volume_ml == pytest.approx(mesh(ball(20.0), AFFINE).volume_ml, rel=1e-3)


def test_a_speck_does_not_vanish_and_nothing_gives_a_mesh_of_nothing() -> None:
    mask = np.zeros((5, 5, 5), bool)
    assert (mesh(mask, AFFINE).faces.shape, mesh(mask, AFFINE).volume_ml) == ((0, 3), 0.0)
    mask[2, 2, 2] = True
    assert mesh(mask, AFFINE).volume_ml == pytest.approx(0.8 * 0.8 * 2.5 / 6 / 1000, rel=1e-4)  # an octahedron


def test_what_the_edge_of_the_scan_cuts_is_closed() -> None:
    whole = np.ones((8, 10, 12), bool)
    surface = mesh(whole, np.eye(4), rounds=0)
    edges = np.sort(surface.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_each_kidney_and_each_lesion_has_its_surface_where_it_is_measured() -> None:
    volume, labels = body([RIGHT, LEFT], tumours=[((0, 30, 74), (14, 14, 14)), ((40, 30, -64), (12, 12, 12))])
    measures = measure(labels, volume.affine)
    surfaces = list(surfaces_of(measures, labels, volume.affine, kidney_faces=2000, lesion_faces=500))
    assert [what for what, _ in surfaces] == [*measures.kidneys, *measures.lesions]
    for what, surface in surfaces:
        volume_ml = what.kidney_ml if isinstance(what, Kidney) else what.volume_ml
        assert surface.volume_ml == pytest.approx(volume_ml, rel=0.1)
        middle = (surface.vertices_mm.min(axis=0) + surface.vertices_mm.max(axis=0)) / 2
        assert middle == pytest.approx(what.centre_lps_mm, abs=6)  # about a voxel


def test_halves_of_a_fused_kidney_are_cut_between_their_centres() -> None:
    volume, labels = body([RIGHT, LEFT, ((0, 30, 0), (12, 12, 70))])
    measures = measure(labels, volume.affine)
    (_, right), (_, left) = surfaces_of(measures, labels, volume.affine)
    assert [kidney.place for kidney in measures.kidneys] == ["fused", "fused"]
    assert right.vertices_mm[:, 0].max() == pytest.approx(0, abs=3)
    assert left.vertices_mm[:, 0].min() == pytest.approx(0, abs=3)


def test_stl_bytes_hold_the_triangles_in_lps_mm_and_say_so() -> None:
    surface = mesh(ball(20.0), AFFINE, faces=500)
    stl = to_stl(surface, name="left kidney")
    assert stl[:80].rstrip() == b"SPACE=LPS unit mm left kidney"
    count = int.from_bytes(stl[80:84], "little")
    assert (count, len(stl)) == (len(surface.faces), 84 + 50 * count)
    rows = np.frombuffer(stl[84:], np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]))
    np.testing.assert_array_equal(rows["corners"], surface.vertices_mm[surface.faces])
    outward = rows["corners"].mean(axis=1) - surface.vertices_mm.mean(axis=0)
    assert ((rows["normal"] * outward).sum(axis=1) > 0).mean() > 0.99


def test_a_budget_that_no_surface_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="100 faces"):
        mesh(ball(5.0), AFFINE, faces=3)


@pytest.mark.shared_data
@pytest.mark.parametrize("label", [1, 2])
def test_real_kidneys_and_tumours_keep_their_volume(shared_data: Path, label: int) -> None:
    labels, grid = read_nifti(shared_data / "ct" / "kits23_shapes" / "case_00000.nii.gz")
    surface = mesh(labels == label, grid.affine, faces=4000)
    assert surface.volume_ml == pytest.approx(np.count_nonzero(labels == label) * grid.voxel_ml, rel=0.03)
    assert len(surface.faces) <= 4000
