"""Kidneys and lesions of a CT scan in 3D: surfaces that are turned, and hidden one by one in the legend."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from db.ct_findings import Standing
from db.ct_reports import ReportedScan
from db.files import store
from db.models import CtScan
from db.settings import Settings
from pages.components.ct_viewer import COLOURS
from renalcore.ct.kidneys import Site
from renalcore.ct.measure import Kidney, Lesion, Measures
from renalcore.errors import RenalError
from renalcore.export.meshes import Mesh, surfaces_of
from renalcore.io.volume.nifti import read_labels

KIDNEY_FACES: Final = 12_000
LESION_FACES: Final = 24_000
"""Of all lesions together: with two kidneys the figure stays near one megabyte, as Plotly sends it."""

FEWEST_FACES: Final = 200
HEIGHT_PX: Final = 620
ACROSS, DOWN = 2.2, 1.8
"""Of the picture, in the units of Plotly's scenes: so much of its width and of its height is filled."""

ROOM_MM: Final = 10.0
"""Around what is shown, for letters."""

SITE_WORDS: Final[Mapping[Site, str]] = {
    "right": "right",
    "left": "left",
    "middle": "side unknown",
    "pelvis_right": "right (in the pelvis)",
    "pelvis_left": "left (in the pelvis)",
    "pelvis_middle": "side unknown (in the pelvis)",
}
"""Where a kidney or lesion lies, as a reader says it."""

_LIGHT: Final = {"ambient": 0.3, "diffuse": 0.9, "specular": 0.15, "roughness": 0.6, "fresnel": 0.1}
_LAMP: Final = {"x": -60_000, "y": 100_000, "z": -60_000}
"""As a camera without perspective sees it: from the left above, and before the picture."""

_BARE: Final = {"visible": False, "showspikes": False}


def ct_meshes(scan: CtScan, found: Standing | ReportedScan) -> None:
    """Show what was found in a scan in 3D, from the front, the head up.

    Args:
        scan: The scan.
        found: What stands in it. The surfaces are made once for the same labels.
    """
    try:
        with st.spinner("Making the surfaces…"):
            picture = figure(found.labels_sha256, found.measures)
    except RenalError as error:
        st.error(str(error))
        return
    if not picture.data:
        st.info("There is no kidney and no lesion to show.")
        return
    st.plotly_chart(
        picture,
        key=f"meshes-{scan.id}",
        height=HEIGHT_PX,
        config={"displaylogo": False, "modeBarButtons": [["resetCameraDefault3d"]], "displayModeBar": True},
    )


@lru_cache(maxsize=16)
def figure(labels_sha256: str, measures: Measures) -> go.Figure:
    """Kidneys translucent, lesions solid, in LPS mm with equal axes.

    Args:
        labels_sha256: Labels in the file store.
        measures: What is measured on them: gives the surfaces their names.

    Raises:
        NotFound: The store has no such file.
        DamagedFile: The file's content is not what was stored.
        InputError: It holds no labels.
    """
    path = store().local(labels_sha256, copies=Settings.from_env().data_folder / "scans", verify=True)
    labels, affine = read_labels(path)
    lesion_faces = max(FEWEST_FACES, LESION_FACES // max(len(measures.lesions), 2))
    surfaces = surfaces_of(measures, labels, affine, kidney_faces=KIDNEY_FACES, lesion_faces=lesion_faces)
    made = go.Figure([_trace(name_of(what, measures), what, surface) for what, surface in surfaces])
    low, high = _extent(made)
    sizes = high - low
    filling = min(ACROSS / sizes[0], DOWN / max(sizes[1:]))
    made.update_layout(
        # From the front: the patient's right is at the left, as in the slices.
        scene={
            "xaxis": _BARE | {"range": [low[0], high[0]]},
            "yaxis": _BARE | {"range": [low[1], high[1]]},
            "zaxis": _BARE | {"range": [low[2], high[2]]},
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", (sizes * filling).tolist(), strict=True)),
            "dragmode": "orbit",
            "camera": {
                "up": {"x": 0, "y": 0, "z": 1},
                "eye": {"x": 0, "y": -1.3, "z": 0.15},
                "projection": {"type": "orthographic"},
            },
            "annotations": _letters(low, high),
        },
        legend={"itemsizing": "constant", "x": 0, "y": 1, "bgcolor": "rgba(0, 0, 0, 0)"},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        uirevision="stay",  # a correction does not turn it back
    )
    return made


def name_of(what: Kidney | Lesion, measures: Measures) -> str:
    """`Right kidney`, or `Tumour 2, left`.

    Args:
        what: A kidney or a lesion.
        measures: Those that it is of.
    """
    if isinstance(what, Kidney):
        where = "" if what.place == "usual" else f" ({what.place if what.place == 'fused' else 'in the pelvis'})"
        return f"{what.side.capitalize()} kidney{where}" if what.side != "middle" else f"Kidney, side unknown{where}"
    return f"{what.label.capitalize()} {what.number}, {SITE_WORDS[measures.site_of(what)]}"


def _trace(name: str, what: Kidney | Lesion, surface: Mesh) -> go.Mesh3d:
    solid = isinstance(what, Lesion)
    millilitres = what.volume_ml if isinstance(what, Lesion) else what.kidney_ml
    x, y, z = surface.vertices_mm.round(2).T
    # Whole numbers of two bytes where they suffice: a third less to send.
    i, j, k = surface.faces.astype(np.uint16 if len(x) <= 2**16 else np.int32).T
    return go.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, color=COLOURS[what.label if isinstance(what, Lesion) else "kidney"],
        opacity=1.0 if solid else 0.35, showlegend=True, lighting=_LIGHT, flatshading=False,
        lightposition=_LAMP, name=name, hovertemplate=f"{name}<br>{millilitres:.1f} ml<extra></extra>",
    )  # fmt: skip


def _extent(made: go.Figure) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners of a box around what is shown, with room for letters, in LPS mm."""
    if not made.data:
        return np.full(3, -ROOM_MM), np.full(3, ROOM_MM)
    ends = np.array([[(trace[axis].min(), trace[axis].max()) for axis in "xyz"] for trace in made.data], np.float64)
    return ends[..., 0].min(axis=0) - ROOM_MM, ends[..., 1].max(axis=0) + ROOM_MM


def _letters(low: NDArray[np.float64], high: NDArray[np.float64]) -> list[dict[str, Any]]:
    """R, L, H and F at the sides of that box."""
    x, y, z = (low + high) / 2
    places = {"R": (low[0], y, z), "L": (high[0], y, z), "H": (x, y, high[2]), "F": (x, y, low[2])}
    return [
        {"x": x, "y": y, "z": z, "text": f"<b>{letter}</b>", "showarrow": False, "font": {"size": 14}}
        for letter, (x, y, z) in places.items()
    ]
