"""What is found in a CT scan, in words and tables beside the picture: its kidneys, its lesions, and what is signed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from db.ct_reports import CtReport, ReportedScan
from db.models import Analysis, AuditEvent
from pages.components import links, signing, status, style
from pages.components.ct_meshes import SITE_WORDS, name_of
from pages.components.ct_viewer import COLOURS
from pages.components.rows import Cell
from renalcore.ct.measure import RENAL_NOTE, Kidney, Lesion, Measures
from renalcore.ct.predict import BEYOND

SHORT_RENAL_NOTE = "R and E of the R.E.N.A.L. score; N, A, L and h cannot be computed from these labels."


def swatch_html(label: str) -> str:
    """The colour that a label has in the picture."""
    return (
        f'<span style="display:inline-block;width:0.7em;height:0.7em;border-radius:2px;margin-right:0.35em;'
        f'background:{COLOURS[label]}"></span>'
    )


def voxel_key(voxel: tuple[int, int, int]) -> str:
    """What names a lesion in an address and in the keys of widgets, whatever its number is now: `34-120-88`."""
    return "-".join(map(str, voxel))


def is_cut_off(found: ReportedScan) -> bool:
    """Whether a kidney reaches beyond the scan, so that its volume is of a part only."""
    return found.words.endswith(BEYOND)


def found_html(found: ReportedScan, *, signed: bool, unvalidated: Sequence[str]) -> str:
    """Which kidneys and lesions there are, in words, and how far to trust that.

    Args:
        found: What stands in the scan.
        signed: Whether a reviewer has released it.
        unvalidated: Classes that the model was never validated for on real scans.
    """
    as_outlined = "as the model outlined it" if signed else "unreviewed: as the model outlined it"
    mark = corrections_in_words(found) or as_outlined
    doubt = status.flag_html(f"never validated on real scans: {', '.join(unvalidated)}") if unvalidated else ""
    words = found.words.removesuffix(BEYOND).rstrip()
    return (
        f'<div data-value="found"><strong>{escape(words)}</strong></div>'
        f'<div style="margin:0.4rem 0">{status.quiet_chip_html(mark)} {doubt}</div>'
        + (f'<div class="rc-banner" role="status">{escape(BEYOND)}</div>' if is_cut_off(found) else "")
    )


def made_by_html(analysis: Analysis) -> str:
    """By which model, on what and how fast."""
    device = f" on {escape(analysis.device)}" if analysis.device else ""
    spent = ""
    if analysis.started_at is not None and analysis.finished_at is not None:
        seconds = (analysis.finished_at - analysis.started_at).total_seconds()
        spent = f" in {style.number(seconds, 0 if seconds >= 10 else 1)} s"
    return (
        f'<div class="rc-quiet-text" data-value="model">Outlined by {escape(analysis.model_key)} '
        f'(<span class="rc-mono" title="SHA-256 of its weights: {analysis.weights_sha256}">'
        f"{analysis.weights_sha256[:12]}</span>){spent}{device}.</div>"
    )


def of_study_html(report: CtReport, scan_id: int) -> str:
    """The scans of a study beside each other; they are not added up.

    Args:
        report: The report of the study.
        scan_id: The scan that is shown.
    """
    lines = []
    for told in report.scans:
        name = escape(told.name)
        if told.scan_id != scan_id:
            name = f'<a href="{links.address("scan", scan=told.scan_id)}" target="_self">{name}</a>'
        phase = f' <span class="rc-quiet-text">{escape(told.phase)}</span>' if told.phase else ""
        volumes = [math.fsum(each.kidney_ml for each in told.measures.kidneys)]
        for label in ("tumour", "cyst"):
            volumes.append(math.fsum(each.volume_ml for each in told.measures.lesions if each.label == label))
        lines.append(
            f"<tr><td>{name}{phase}</td>"
            + "".join(f'<td class="rc-num">{ml(volume)}</td>' for volume in volumes)
            + "</tr>"
        )
    missing = report.scans_total - len(report.scans)
    head = "".join(f'<th class="rc-num">{words} ml</th>' for words in ("Tissue", "Tumours", "Cysts"))
    return (
        f'<table class="rc-table"><thead><tr><th>Scan</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        '<p class="rc-quiet-text">Scans are not added up: they show the same kidneys again.'
        f"{f' {missing} without a result.' if missing else ''}</p>"
    )


def signed_words(report: CtReport) -> Iterator[str]:
    """What a reviewer is about to sign, as paragraphs of markdown."""
    yield (
        f"Study **{style.plain(report.accession)}**, patient **{style.plain(report.patient_identifier)}**, "
        f"model {style.plain(report.model_key or style.NO_VALUE)}."
    )
    for told in report.scans:
        tissue = ", ".join(f"{SITE_WORDS[each.site]} {ml(each.kidney_ml)} ml" for each in told.measures.kidneys)
        words = f"{told.words} Kidney tissue: {tissue}." if tissue else told.words
        if told.corrections:
            words = f"{words} {corrections_in_words(told)}."
        if told.doubts:
            words = f"{words} Doubts about the scan: {' '.join(told.doubts)}"
        yield f"**{style.plain(told.name)}**: {style.plain(words)}"
        if told.measures.lesions:
            yield "\n".join(f"- {style.plain(_signed_lesion(each, told.measures))}" for each in told.measures.lesions)
    stand = sum(each.number not in told.by_hand for told in report.scans for each in told.measures.lesions)
    if stand:
        yield (
            "1 lesion stands as the model outlined it; signing accepts it."
            if stand == 1
            else f"{stand} lesions stand as the model outlined them; signing accepts them."
        )


def _signed_lesion(lesion: Lesion, measures: Measures) -> str:
    axial_mm = style.number(lesion.axial_diameter_mm)
    return f"{name_of(lesion, measures)}: {ml(lesion.volume_ml)} ml, {axial_mm} mm in its widest slice"


def kidneys_html(measures: Measures) -> str:
    """A column for each kidney, from the patient's right to the left."""
    head = "".join(f'<th class="rc-num">{_name(kidney)}</th>' for kidney in measures.kidneys)
    lines = [
        ("kidney", f"{swatch_html('kidney')}Kidney tissue in ml", [ml(each.kidney_ml) for each in measures.kidneys]),
        ("tumour", f"{swatch_html('tumour')}Tumour in ml", [ml(each.tumour_ml) for each in measures.kidneys]),
        ("cyst", f"{swatch_html('cyst')}Cyst in ml", [ml(each.cyst_ml) for each in measures.kidneys]),
        ("length", "Length in mm", [style.number(each.length_mm, 0) for each in measures.kidneys]),
        ("hu", "Mean HU", [_hu(each.mean_hu, each.sd_hu) for each in measures.kidneys]),
    ]
    body = "".join(
        f'<tr data-value="{key}"><td>{words}</td>'
        + "".join(f'<td class="rc-num">{value}</td>' for value in values)
        + "</tr>"
        for key, words, values in lines
    )
    return f'<table class="rc-table"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'


def lesion_html(lesion: Lesion, measures: Measures) -> str:
    """All that is measured of one lesion of these."""
    facts = [
        ("Volume", f"{ml(lesion.volume_ml)} ml"),
        ("Largest axial diameter", f"{style.number(lesion.axial_diameter_mm)} mm"),
        ("Largest diameter in 3D", f"{style.number(lesion.diameter_mm)} mm"),
        ("Mean ± SD", f"{_hu(lesion.mean_hu, lesion.sd_hu)} HU"),
    ]
    if lesion.outside_share is not None:
        facts.append(("Outside the kidney", f"{100 * lesion.outside_share:.0f} %"))
    if lesion.renal_r is not None:
        score = f"R {lesion.renal_r}, E {style.NO_VALUE if lesion.renal_e is None else lesion.renal_e}"
        facts.append((f'<span title="{escape(RENAL_NOTE)}">R.E.N.A.L.</span>', score))
    body = "".join(f'<tr><td>{words}</td><td class="rc-num">{value}</td></tr>' for words, value in facts)
    title = f"{swatch_html(lesion.label)}{name_of(lesion, measures)}"
    return (
        f'<table class="rc-table" data-lesion="{lesion.number}"><thead><tr><th colspan="2">{title}</th>'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def organ_in_words(organ: Sequence[Kidney]) -> str:
    """Which of `Measures.organs`, and how large it is with its lesions: `left kidney, 148.2 ml`."""
    kidney = organ[0]
    which = "fused " if kidney.place == "fused" else "" if kidney.side == "middle" else f"{kidney.side} "
    where = " in the pelvis" if kidney.place == "pelvis" else ""
    return f"{which}kidney{where}, {ml(sum(half.total_ml for half in organ))} ml"


def corrections_in_words(found: ReportedScan) -> str:
    """How many corrections stand: `2 corrections by hand`; empty where there is none."""
    number = len(found.corrections)
    return f"{number} correction{'s' * (number > 1)} by hand" if number else ""


def lesions_in_words(measures: Measures) -> str:
    """How many lesions there are of each kind: `2 tumours and 1 cyst`, `no tumour or cyst`."""
    names = [lesion.label for lesion in measures.lesions]
    told = [f"{names.count(name)} {name}{'s' * (names.count(name) > 1)}" for name in dict.fromkeys(names)]
    return " and ".join(told) or "no tumour or cyst"


def score_in_words(lesion: Lesion) -> str:
    """R and E of a tumour beside each other, `1, 3`; a dash of a cyst."""
    if lesion.renal_r is None:
        return style.NO_VALUE
    return f"{lesion.renal_r}, {style.NO_VALUE if lesion.renal_e is None else lesion.renal_e}"


def renal_note_html() -> str:
    """What R and E are, and why nothing more of the score is told."""
    return f'<div class="rc-quiet-text" title="{escape(RENAL_NOTE)}">{SHORT_RENAL_NOTE}</div>'


def cells(lesion: Lesion, found: ReportedScan) -> tuple[Cell, ...]:
    """A line of the list of lesions."""
    by_hand = ", corrected" if lesion.number in found.by_hand else ""
    return (
        str(lesion.number),
        {"chip": f"{lesion.label}{by_hand}", "colour": COLOURS[lesion.label]},
        SITE_WORDS[found.measures.site_of(lesion)],
        ml(lesion.volume_ml),
        style.number(lesion.axial_diameter_mm),
        style.number(lesion.diameter_mm),
        style.number(lesion.mean_hu, 0),
        score_in_words(lesion),
    )


def change_in_words(event: AuditEvent, scan_id: int) -> str | None:
    """What was done to a CT study, as a technologist would say it; None for events of other kinds.

    Args:
        event: An event of the study or of its analysis.
        scan_id: The scan that is shown: what was said of another one is told with its name.
    """
    old, new = event.old or {}, event.new or {}
    where = "" if new.get("scan_id") == scan_id else f" in {new.get('scan')}"
    match event.action:
        case "lesion.relabel":
            return f"{old['label'].capitalize()}{where} called a {new['label']}"
        case "lesion.remove":
            return f"{old['label'].capitalize()}{where} deleted"
        case "kidney.remove":
            return f"{old['label'].capitalize()}{where} deleted with its lesions"
        case "lesion.undo" | "kidney.undo":
            return f"Correction{where} taken back: a {new['label']} again"
        case "specimen.reassign":
            return f"Moved from patient {old['patient']} to {new['patient']}: {event.reason}"
        case "specimen.change_date":
            return signing.date_changed(event, "Date of the scan")
        case "specimen.withdraw_scan":
            return f"{new['name']} withdrawn: {event.reason}"
        case "specimen.bring_back_scan":
            return f"{new['name']} brought back"
        case "specimen.add_scans":
            number = len(new["added"])
            return "1 scan added" if number == 1 else f"{number} scans added"
    return None


def _name(kidney: Kidney) -> str:
    place = {"usual": "", "fused": "half of one kidney", "pelvis": "in the pelvis or in front"}[kidney.place]
    return SITE_WORDS[kidney.side].capitalize() + (f'<br><span class="rc-quiet-text">{place}</span>' if place else "")


def ml(value: float) -> str:
    """Millilitres: tenths tell two lesions apart, and below one of them hundredths do."""
    return style.number(value, 2 if 0 < value < 1 else 1)


def _hu(mean: float | None, sd: float | None) -> str:
    return style.NO_VALUE if mean is None else f"{style.number(mean, 0)} ± {style.number(sd, 0)}"
