"""The slices of a CT scan in three planes, with what was found in it: to look through, and to select a lesion in.

Drawn on plain canvases from the scan's own voxels, without WebGL and without a library: a window is changed in a
millisecond also where a computer has no graphics card, or is seen from afar.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypedDict

import numpy as np
import streamlit as st

from db.models import CtScan
from pages.components import slide_viewer
from pages.components.slide_viewer.events import acknowledged, unheard
from renalcore.ct.measure import Measures

COLOURS: Final = {"kidney": "#56B4E9", "tumour": "#D55E00", "cyst": "#F0E442"}
"""Of each label (Okabe and Ito), in the slices and in 3D."""

ACTIONS: Final = frozenset({"select", "clear"})

_HERE = Path(__file__).parent
SCRIPTS: Final = (slide_viewer.HERE / "parts.js", *(_HERE / name for name in ("volume.js", "plane.js", "viewer.js")))
"""What the browser runs, in this order."""

_component = st.components.v2.component(
    "renalcore_ct_viewer",
    js=slide_viewer.script(*SCRIPTS),
    css=(_HERE / "viewer.css").read_text(encoding="utf-8"),
)


class Event(TypedDict):
    """One thing that a person did.

    Attributes:
        action: `select`: a tumour or a cyst was clicked, or stepped to; `clear`: the selection was dropped.
        voxel: One of the lesion's voxels `[slice, row, column]`, an index into the array of the scan, as
            `db.ct_findings.relabel` takes it; None for `clear`.
        lesion: Its number in the `measures` that the viewer was given, or None where they hold no such lesion.
    """

    action: Literal["select", "clear"]
    voxel: tuple[int, int, int] | None
    lesion: int | None


def middle_of(measures: Measures | None) -> list[float] | None:
    """The middle of all kidneys in LPS mm, where a scan without lesions is opened; None where there is no kidney."""
    if measures is None or not measures.kidneys:
        return None
    middle: list[float] = np.mean([kidney.centre_lps_mm for kidney in measures.kidneys], axis=0).tolist()
    return middle


def ct_viewer(
    scan: CtScan,
    *,
    analysis_id: int | None,
    version: str,
    on_event: Callable[[Event], None],
    measures: Measures | None = None,
    go_to: tuple[int, int, int] | None = None,
    asked: int = 0,
) -> None:
    """Show a scan.

    Args:
        scan: The scan.
        analysis_id: The analysis whose standing labels lie over it; None shows none.
        version: Anything that changes whenever a label does: then they are fetched again.
        on_event: Called with each thing that a person did, once and in order, before the page runs.
        measures: What is measured on these labels: gives the lesions their numbers.
        go_to: A voxel `(slice, row, column)` to bring the cross-hair to, such as `Lesion.voxel`, whenever it is another
            than before; the lesion there is selected. That makes no event.
        asked: Raise it to be brought to the same voxel again.
    """
    key = f"ct-{scan.id}" if analysis_id is None else f"ct-{scan.id}-{analysis_id}"
    known = acknowledged(key)

    def receive() -> None:
        for told in unheard(st.session_state[key].get("events"), known, actions=ACTIONS):
            voxel, lesion = told.get("voxel"), told.get("lesion")
            on_event(
                Event(
                    action=told["action"],
                    voxel=None if voxel is None else (int(voxel[0]), int(voxel[1]), int(voxel[2])),
                    lesion=None if lesion is None else int(lesion),
                )
            )

    lesions = [] if measures is None else measures.lesions
    with st.container(key=f"steady-{key}"):
        _component(
            key=key,
            data={
                "scan": scan.id,
                "image": f"/ct/{scan.id}/image.nii.gz",
                "labels": None if analysis_id is None else f"/ct/{scan.id}/labels.nii.gz?analysis={analysis_id}",
                "version": version,
                "colours": COLOURS,
                "lesions": [{"number": one.number, "label": one.label, "voxel": list(one.voxel)} for one in lesions],
                "middle": middle_of(measures),
                "go_to": None if go_to is None else list(go_to),
                "asked": asked,
                "acknowledged": known,
            },
            on_events_change=receive,
        )
