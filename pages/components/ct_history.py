"""A patient's CT studies: every scan with the volumes of its kidneys and lesions, and the same over time."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime, timedelta
from html import escape

import streamlit as st
from plotly.subplots import make_subplots

from db.ct_list import StudyRow
from db.ct_reports import CtReport, VolumesAtOneTime, volumes
from pages.components import ct_results, links, status, style
from pages.components.ct_viewer import COLOURS

_LINES = (
    ("right_ml", "Right kidney", COLOURS["kidney"], "solid", "circle"),
    ("left_ml", "Left kidney", COLOURS["kidney"], "dash", "square"),
    ("side_unknown_ml", "Kidney, side unknown", COLOURS["kidney"], "dot", "cross"),
    ("pelvis_right_ml", "Right kidney (in the pelvis)", COLOURS["kidney"], "dashdot", "star"),
    ("pelvis_left_ml", "Left kidney (in the pelvis)", COLOURS["kidney"], "longdash", "x"),
    ("pelvis_side_unknown_ml", "Kidney, side unknown (in the pelvis)", COLOURS["kidney"], "longdashdot", "hexagon"),
    ("tumour_ml", "Tumours", COLOURS["tumour"], "solid", "diamond"),
    ("cyst_ml", "Cysts", COLOURS["cyst"], "dash", "triangle-up"),
)
"""What is drawn over time: attribute, name, colour, dash and symbol, so that colour is never alone."""

_IN_PELVIS = [(name, words) for name, words, *_ in _LINES if name.startswith("pelvis_")]

_CUT_OFF = "kidney cut off by the edge of the scan"

_LESIONS = frozenset({"tumour_ml", "cyst_ml"})


def show(scanned: Sequence[StudyRow], history: Sequence[CtReport], patient_id: int) -> None:
    """Every scan with what is reported of it, signed or not, and a chart once there are two moments.

    Args:
        scanned: The patient's studies.
        history: The reports of the studies.
        patient_id: The patient.
    """
    points = volumes(history)
    cut_off = {scan.scan_id for one in history for scan in one.scans if ct_results.is_cut_off(scan)}
    _table(scanned, {point.scan_id: point for point in points}, history, cut_off)
    first = list({point.specimen_id: point for point in reversed(points)}.values())[::-1]
    moments = [(point.scanned_at, point) for point in first if point.scanned_at is not None]
    undated = len(first) - len(moments)
    told = []
    if len({moment for moment, _ in moments}) > 1:
        _chart(moments, patient_id, cut_off)
        if len(first) < len(points):
            told.append("Of a study with several scans the chart shows the first.")
        if undated:
            studies = "1 study is" if undated == 1 else f"{undated} studies are"
            told.append(f"{studies} not in it: the date of the scan is unknown.")
    elif undated and len(first) > 1:
        told.append("There is no chart over time: it takes two studies whose dates of the scan are known.")
    if told:
        st.html(f'<p class="rc-quiet-text">{" ".join(told)}</p>')


def _table(
    scanned: Sequence[StudyRow],
    points: dict[int, VolumesAtOneTime],
    history: Sequence[CtReport],
    cut_off: Container[int],
) -> None:
    lesions = {scan.scan_id: ct_results.lesions_in_words(scan.measures) for one in history for scan in one.scans}
    lines = []
    for row, scan in ((study, scan) for study in scanned for scan in study.scans):
        point = points.get(scan.id)
        state = status.state_chip_html(row.state, done=row.done, total=row.total)
        if scan.withdrawn_at is not None:
            state = status.quiet_chip_html("withdrawn")
        cells = [style.NO_VALUE] * 4
        found = style.NO_VALUE
        if point is not None:
            sides = (point.right_ml, point.left_ml)
            cells = [
                *(style.NO_VALUE if value is None else ct_results.ml(value) for value in sides),
                ct_results.ml(point.tumour_ml),
                ct_results.ml(point.cyst_ml),
            ]
            found = escape(lesions[scan.id])
            if scan.id in cut_off:
                state += f'<div class="rc-narrow" style="margin:0.2rem 0 0">{status.flag_html(_CUT_OFF)}</div>'
            if point.side_unknown_ml is not None:
                found += f"<br>{status.flag_html(f'{ct_results.ml(point.side_unknown_ml)} ml, side unknown')}"
            for name, words in _IN_PELVIS:
                if (volume_ml := getattr(point, name)) is not None:
                    found += f"<br>{status.quiet_chip_html(f'{words}: {ct_results.ml(volume_ml)} ml')}"
        about = ", ".join([*([scan.phase] if scan.phase else []), f"{scan.slices} slices"])
        lines.append(
            f'<tr><td><a href="{links.address("scan", scan=scan.id)}" target="_self">'
            f'<span style="white-space:nowrap">{escape(row.accession)}</span> · {escape(scan.name)}</a><br>'
            f'<span class="rc-quiet-text">{escape(about)}<br><span style="white-space:nowrap">'
            f"{style.when(row.collected_at)[:11] if row.collected_at else 'no date'}</span></span></td><td>{state}</td>"
            + "".join(f'<td class="rc-num">{cell}</td>' for cell in cells)
            + f"<td>{found}</td></tr>"
        )
    st.html(
        '<div style="overflow-x:auto"><table class="rc-table"><thead><tr><th>Scan</th><th>State</th>'
        '<th class="rc-num" style="white-space:normal">Right kidney<br>ml</th>'
        '<th class="rc-num" style="white-space:normal">Left kidney<br>ml</th>'
        '<th class="rc-num">Tumours<br>ml</th><th class="rc-num">Cysts<br>ml</th><th>Lesions</th></tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="rc-quiet-text">The volume of a kidney includes its tumours and cysts.</p>'
    )


def _about(point: VolumesAtOneTime, cut_off: Container[int]) -> str:
    signed = "signed" if point.is_signed else "not signed"
    return f"{signed}, {_CUT_OFF}" if point.scan_id in cut_off else signed


def _chart(moments: Sequence[tuple[datetime, VolumesAtOneTime]], patient_id: int, cut_off: Container[int]) -> None:
    """Kidneys, and below them lesions with a scale of their own: beside a kidney nobody sees a tumour grow."""
    zone = style.browser_zone()
    taken = [moment.astimezone(zone).replace(tzinfo=None) for moment, _ in moments]
    points = [point for _, point in moments]
    has_lesions = any(getattr(point, name) for point in points for name in _LESIONS)
    figure = make_subplots(rows=1 + has_lesions, shared_xaxes=True, vertical_spacing=0.1)
    for name, words, colour, dash, symbol in _LINES:
        values = [getattr(point, name) for point in points]
        if not any(values):
            continue
        figure.add_scatter(
            row=1 + (name in _LESIONS),
            col=1,
            x=taken,
            y=values,
            customdata=[[point.accession, _about(point, cut_off)] for point in points],
            mode="lines+markers",
            name=words,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9, "line": {"width": 1, "color": "#6B7280"}},
            hovertemplate="%{customdata[0]}: %{y:.1f} ml, %{customdata[1]}<extra>%{fullData.name}</extra>",
        )
    margin = max(timedelta(days=1), (taken[-1] - taken[0]) / 20)
    figure.update_layout(
        height=300 + 160 * has_lesions,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": -0.2 / (1 + has_lesions)},
    )
    figure.update_xaxes(tickformat="%d %b %Y", range=[taken[0] - margin, taken[-1] + margin], nticks=8)
    for row, words in enumerate(("Kidneys, ml", "Lesions, ml")[: 1 + has_lesions], start=1):
        figure.update_yaxes(title=words, rangemode="tozero", row=row, col=1)
    st.plotly_chart(figure, key=f"volumes-{patient_id}", config={"displayModeBar": False})
