from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalcore import cli
from renalcore.datasets.findings import Kind
from renalcore.errors import InputError, UnreadableFile
from renalcore.histology.annotations import LabelledSlide, ReadOptions, Slides, read_slides, survey
from renalcore.histology.annotations.hubmap import outlines_of
from renalcore.histology.annotations.java import read_stream
from renalcore.histology.annotations.orbit import read_annotation
from renalcore.histology.check import check
from renalcore.histology.fields import FieldReader
from renalcore.histology.names import GLOMERULUS, IGNORE, OTHER, SCLEROSED, label_called
from tests.renalcore.histology import orbit_database
from tests.renalcore.histology.drawn import field, numbered, pair, save
from tests.renalcore.histology.orbit_database import annotation, ellipse, polygon

SQUARE = [(40, 30), (80, 30), (80, 70), (40, 70)]


def ring(points: list[tuple[int, int]]) -> list[list[int]]:
    """Coordinates as GeoJSON has them: the first point again at the end."""
    return [list(point) for point in (*points, points[0])]


def feature(coordinates: Any, label: Any, kind: str = "Polygon") -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": label},
    }


def geojson(path: Path, features: list[Any], *, bare: bool = False) -> Path:
    path.write_text(json.dumps(features if bare else {"type": "FeatureCollection", "features": features}))
    return path


def labels(slide: LabelledSlide) -> list[tuple[str, float]]:
    return [(outline.label, outline.area_px) for outline in slide.outlines or ()]


def told(found: Slides, kind: Kind) -> list[str]:
    return [str(finding) for finding in found.findings if finding.kind is kind]


# Names


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Glomeruli", GLOMERULUS), ("glom_12", GLOMERULUS), ("Non-globally-sclerotic glomeruli", GLOMERULUS),
        ("GS", SCLEROSED), ("Globally sclerotic glomeruli", SCLEROSED), ("Ignore*", IGNORE),
        ("Inner medulla", OTHER), ("Cortex", OTHER), ("Kreis", None), ("", None),
    ],
)  # fmt: skip
def test_common_names_mean_a_glomerulus_a_sclerosed_one_or_none(name: str, label: str | None) -> None:
    assert label_called(name) == label


# Orbit


def test_outlines_of_orbit_are_read_from_the_java_objects_in_its_database(tmp_path: Path) -> None:
    save(tmp_path / "M1.png", field([]))
    orbit_database.write(
        tmp_path / "orbit.sqlite",
        {
            "M1.png": [
                ("glomerulus", annotation(polygon(SQUARE))),
                ("glomerulus 2", annotation(polygon([(x // 2, y // 2) for x, y in SQUARE], scale=50.0))),
                ("glomerulus", annotation(ellipse(100, 100, 40, 20))),
                ("dirt", annotation(polygon([(200, 10), (220, 10), (220, 30)]), subtype=2)),
                ("glomerulus", annotation(polygon([(0, 0), (300, 0), (300, 200)]), subtype=3)),
            ],
            "elsewhere.tif": [("glomerulus", annotation(polygon(SQUARE)))],
            "unannotated.tif": [],
        },
    )
    found = survey(tmp_path, ReadOptions(species="mouse"))
    (slide,) = found.slides
    assert labels(slide) == [
        (GLOMERULUS, 1600),
        (GLOMERULUS, pytest.approx(np.pi * 20 * 10, rel=0.01)),  # the same square at half the scale is told below
        (IGNORE, 200),
    ]
    assert told(found, Kind.OUTLINE_TWICE) == [
        "orbit.sqlite: 1 outline of M1.png given twice, counted once; remove one of the two"
    ]
    assert told(found, Kind.NO_OBJECT)[0].startswith("orbit.sqlite: 1 region of interest, inclusion or points left out")
    assert told(found, Kind.LISTED_NOT_THERE)[0].startswith("orbit.sqlite: outlines 1 slide of which there is no file")
    assert (slide.species, slide.glomeruli) == ("mouse", 2)


def test_names_that_nobody_knows_are_mapped_by_a_file(tmp_path: Path) -> None:
    save(tmp_path / "M1.png", field([]))
    orbit_database.write(tmp_path / "orbit.db", {"M1.png": [("", annotation(polygon(SQUARE)))]})
    with pytest.raises(InputError, match=r"'\(no name\)' \(1 outline\) is no name of a glomerulus that is known"):
        read_slides(tmp_path)
    mapping = tmp_path / "names.csv"
    mapping.write_text("name,label\n(no name),glomerulus\n")
    (slide,) = read_slides(tmp_path, ReadOptions(mapping=mapping)).slides
    assert labels(slide) == [(GLOMERULUS, 1600)]
    mapping.write_text("(no name),Glomus\n")
    with pytest.raises(InputError, match="line 1: 'Glomus' is none of glomerulus, globally sclerosed"):
        read_slides(tmp_path, ReadOptions(mapping=mapping))


def test_a_java_stream_that_is_cut_off_or_made_to_hurt_is_refused() -> None:
    whole = annotation(polygon(SQUARE))
    assert len(read_stream(whole)) == 3
    for length in range(4, len(whole) - 10):
        with pytest.raises(UnreadableFile):
            read_annotation(whole[:length], "glomerulus")
    endless = whole[:4] + b"\x75" + orbit_database.description("[I", [], b"\x70") + b"\x7f\xff\xff\xff"
    with pytest.raises(UnreadableFile, match="cut off"):
        read_stream(endless)
    with pytest.raises(UnreadableFile, match="no Java objects"):
        read_annotation(b"<xml/>", "glomerulus")


# HuBMAP


def test_runs_are_counted_from_one_down_the_columns(tmp_path: Path) -> None:
    # Height 4: pixels 6, 7 are rows 2, 3 of column 2, and 10, 11 those of column 3.
    (outline,) = outlines_of("6 2 10 2", width_px=5, height_px=4)
    assert outline.points_px.min(0).tolist() == [1.5, 1.5]
    assert outline.points_px.max(0).tolist() == [2.5, 2.5]
    assert outlines_of("", width_px=5, height_px=4) == []


def test_what_runs_outline_is_drawn_as_it_was(tmp_path: Path) -> None:
    mask = numbered([(60, 50, 20), (200, 120, 30), (319, 239, 25)])
    flat = (mask > 0).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flat, [False]))))
    runs = " ".join(f"{start + 1} {stop - start}" for start, stop in edges.reshape(-1, 2).tolist())
    save(tmp_path / "train" / "aaa.tiff", field([]))
    (tmp_path / "train.csv").write_text(f"id,encoding\naaa,{runs}\nbbb,1 2\n")
    found = survey(tmp_path)
    (slide,) = found.slides
    assert slide.glomeruli == 3
    drawn = FieldReader(slide).read(0, 0, 320, 240, downsample=1.0)
    assert ((drawn.instances > 0) == (mask > 0)).all()
    assert told(found, Kind.LISTED_NOT_THERE)[0].startswith("train.csv: line 3 names bbb, of which there is no file")


@pytest.mark.parametrize(
    ("runs", "message"),
    [("1 x", "not all whole numbers"), ("1 2 3", "no pairs"), ("19 3", "leave the slide of 5 x 4 px")],
)
def test_runs_that_cannot_be_meant_are_refused(runs: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        outlines_of(runs, width_px=5, height_px=4)


def test_polygon_files_of_hubmap_go_before_its_runs_and_structures_are_no_glomeruli(tmp_path: Path) -> None:
    save(tmp_path / "aaa.tiff", field([]))
    (tmp_path / "train.csv").write_text("id,encoding\naaa,1 2\n")
    geojson(tmp_path / "aaa.json", [feature([ring(SQUARE)], {"name": "glomerulus"})], bare=True)
    cortex = [(0, 0), (300, 0), (300, 200), (0, 200)]
    geojson(tmp_path / "aaa-anatomical-structure.json", [feature([ring(cortex)], {"name": "Cortex"})], bare=True)
    (slide,) = read_slides(tmp_path).slides
    assert labels(slide) == [(GLOMERULUS, 1600)]


def test_structures_alone_do_not_say_that_a_slide_has_no_glomerulus(tmp_path: Path) -> None:
    save(tmp_path / "aaa.png", field([]))
    geojson(tmp_path / "aaa-anatomical-structure.json", [feature([ring(SQUARE)], {"name": "Medulla"})], bare=True)
    found = survey(tmp_path)
    assert (found.slides, len(found.unlabelled)) == ((), 1)


# QuPath


def test_qupath_outlines_keep_holes_parts_and_classes(tmp_path: Path) -> None:
    save(tmp_path / "P1.png", field([]))
    hole = [(50, 40), (60, 40), (60, 50), (50, 50)]
    far = [(200, 100), (240, 100), (240, 140), (200, 140)]
    sliver = [(0, 0), (5, 0), (5, 5)]
    geojson(
        tmp_path / "P1.geojson",
        [
            feature([ring(SQUARE), ring(hole)], {"name": "Glomerulus", "color": [0, 0, 255]}),
            feature([[ring(far)], [ring(sliver)]], {"names": ["GSG"]}, kind="MultiPolygon"),
            feature([ring([(10, 200), (30, 200), (30, 220)])], {"name": "Ignore*", "colorRGB": -1}),
            feature([ring([(100, 200), (130, 200), (130, 220)])], {"name": "Tubule"}),
            feature([10, 10], None, kind="Point"),
        ],
    )
    found = survey(tmp_path)
    (slide,) = found.slides
    assert labels(slide) == [(GLOMERULUS, 1500), (SCLEROSED, 1600), (IGNORE, 200)]
    assert (slide.glomeruli, slide.areas_px.tolist()) == (2, [1500, 1600])
    assert told(found, Kind.NO_OBJECT)[0].startswith("P1.geojson: outline nothing and are left out: 1 Point")


def test_outlines_of_another_slide_or_level_are_wrong(tmp_path: Path) -> None:
    save(tmp_path / "P1.png", field([]))
    outside = [(x + 1000, y) for x, y in SQUARE]
    geojson(tmp_path / "P1.geojson", [feature([ring(outside)], {"name": "glomerulus"})])
    (message,) = told(survey(tmp_path), Kind.OUTLINE_OUTSIDE)
    assert message.startswith("P1.geojson: 1 outline wholly outside the slide of 320 x 240 px; see that")


def test_an_empty_list_of_features_says_that_nothing_was_found(tmp_path: Path) -> None:
    save(tmp_path / "P1.png", field([]))
    geojson(tmp_path / "P1.geojson", [])
    assert [slide.glomeruli for slide in read_slides(tmp_path).slides] == [0]


# The check


def test_the_check_tells_of_crossing_lines_and_of_glomeruli_outlined_twice(tmp_path: Path) -> None:
    save(tmp_path / "P1.png", field([(60, 50, 20)]))
    bow = [(100, 100), (140, 140), (140, 100), (100, 120)]
    nearly = [(x + 1, y) for x, y in SQUARE]
    shapes = [feature([ring(points)], {"name": "glomerulus"}) for points in (bow, SQUARE, nearly)]
    geojson(tmp_path / "P1.geojson", shapes)
    report = check(tmp_path)
    messages = {finding.kind: str(finding) for finding in report.findings}
    assert messages[Kind.SELF_CROSSING].startswith(
        "P1.png: 1 outline with a line that crosses itself (Self-intersection"
    )
    assert messages[Kind.OUTLINE_TWICE].startswith("P1.png: 1 pair of outlines around one glomerulus")
    assert report.is_fit


def test_the_command_lists_leaks_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(["train/a", "train/b", "val/c"]):
        discs = [(80 + 60 * seed, 100, 20), (120, 200 - 60 * seed, 25)]
        pair(tmp_path / Path(name).parent, Path(name).name, discs, seed=seed)
    data = str(tmp_path)
    assert cli.main(["check", "histology", "--data", data]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{tmp_path}: 3 labelled slides, 0 unlabelled pictures"
    assert lines[3:8] == ["train val", "slides 2 1", "groups 2 1", "glomeruli 4 2", "stain not said 2 1"]
    assert lines[-1] == "fit to train on"
    (tmp_path / "val" / "images" / "c.png").write_bytes((tmp_path / "train" / "images" / "a.png").read_bytes())
    assert cli.main(["check", "histology", "--data", data, "--output", str(tmp_path / "checked")]) == 1
    assert "is the same picture as train/images/a.png (train)" in capsys.readouterr().out
    content = json.loads((tmp_path / "checked" / "check.json").read_text())
    assert (content["fit"], content["splits"]["train"]["glomeruli"]) == (False, 4)
