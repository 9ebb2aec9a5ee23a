"""Reports: what a specimen's fields add up to, before and after it is signed, each value traceable to its fields.

A signed specimen reports what was signed, word for word; any other reports what stands now.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import cutoffs, gate, reporting
from db.models import (
    Analysis,
    CutOffTableRow,
    FieldResult,
    Objective,
    Patient,
    ScaleKind,
    SignOff,
    Specimen,
    SpecimenField,
)
from db.objects import ONLY_WHEN_CONFIRMED, MinScore, counts, threshold
from db.reporting import Report, Signature, Which
from renalcore.errors import NotFound
from renalcore.export.csv import ExportRow
from renalcore.sediment import measure
from renalcore.sediment.measure import FieldCount, MeasuredField, ReportedValue
from renalcore.taxonomy import Group
from renalcore.types import illuminated_area_px

_BATCH = 500  # specimens a round of statements


@dataclass(frozen=True, slots=True)
class ReportField:
    """A field that the report rests on: where its values are traced to.

    Attributes:
        field_id: The field.
        position: Its place in the specimen, from 0.
        name: Base name of the uploaded file.
        in_spite_of: The flags in words in spite of which a reviewer counted it; None for a field without any.
    """

    field_id: int
    position: int
    name: str
    in_spite_of: str | None = None


@dataclass(frozen=True, slots=True)
class WithheldField:
    """A field that was searched and is not counted, because its picture cannot be trusted; see `db.gate`.

    Attributes:
        field_id: The field.
        position: Its place in the specimen, from 0.
        name: Base name of the uploaded file.
        reason: Why, e.g. `out of focus`.
    """

    field_id: int
    position: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SpecimenReport(Report):
    """What is reported of one specimen.

    Attributes:
        objective: The objective its fields were taken with.
        scale_kind: How the area of a field is known.
        um_per_px: Micrometres a pixel, where that is how.
        min_score: Lowest score at which the model's word counts.
        cut_off_version: The cut-off table that grades it.
        fields: The fields that have a result and are neither withdrawn nor withheld.
        withheld: The fields that have a result and are withheld for their quality.
        fields_total: All the specimen's fields that are not withdrawn.
        unreviewed: Objects counted on the model's word alone.
        rows: The values; none where no field counts.
        signature: The signature these values carry; None where they are not signed as they stand.
        amendments: How often the report has been amended so far.
    """

    objective: Objective
    scale_kind: ScaleKind
    um_per_px: float | None
    min_score: MinScore
    cut_off_version: str
    fields: tuple[ReportField, ...]
    withheld: tuple[WithheldField, ...]
    fields_total: int
    unreviewed: int
    rows: tuple[ReportedValue, ...]
    signature: Signature | None
    amendments: int

    @property
    def withheld_in_words(self) -> str | None:
        """Which fields are withheld and why, in one line; None where none is."""
        return gate.in_words([(field.position + 1, field.reason) for field in self.withheld]) or None

    def is_unvalidated(self, class_name: str) -> bool:
        """Whether the model was never validated on real pictures of this class, so that only a person's word counts."""
        return threshold(self.min_score, class_name) >= ONLY_WHEN_CONFIRMED

    @property
    def fields_missing(self) -> int:
        """Fields that have not been searched."""
        return self.fields_total - len(self.fields) - len(self.withheld)


class ReportedSpecimen(NamedTuple):
    """Which specimen a report is of."""

    specimen_id: int
    accession: str
    patient_identifier: str


class _Record(NamedTuple):
    specimen: Specimen
    patient: Patient
    table: CutOffTableRow


def report(session: Session, specimen_id: int) -> SpecimenReport:
    """The report of a specimen as it stands, or as it was signed.

    Raises:
        NotFound: There is no such specimen.
    """
    found = _reports(session, [specimen_id])
    if not found:
        raise NotFound(f"There is no specimen {specimen_id}.")
    return found[0]


def patient_history(session: Session, patient_id: int) -> list[SpecimenReport]:
    """The reports of a patient's specimens that are analysed, signed or not, oldest first."""
    return reporting.oldest_first(_reports(session, reporting.chosen(session, "sediment", patient_id=patient_id)))


def rows_for_export(session: Session, **which: Unpack[Which]) -> list[ExportRow]:
    """One tidy row a value of every analysed specimen that is asked for, in the order of registration.

    Signed specimens give what was signed; the others what stands now, with nothing in the columns of the signature.
    A class that counts only where a person confirms it has a row only where somebody did.

    Raises:
        InputError: Nothing says which specimens.
    """
    return rows_of_specimens(session, reporting.chosen(session, "sediment", **which))


def reported_specimens(
    session: Session, *, since: datetime | None = None, until: datetime | None = None, signed_only: bool = False
) -> list[ReportedSpecimen]:
    """The specimens of sediment that have a report, in the order of registration, without the cost of their values.

    Args:
        session: An open session.
        since: Only specimens registered at this moment or later.
        until: Only specimens registered before this moment.
        signed_only: Only those whose report is signed.
    """
    wanted = (
        reporting.reportable("sediment", since=since, until=until)
        .add_columns(Specimen.accession, Patient.identifier)
        .join(Patient, Patient.id == Specimen.patient_id)
    )
    if signed_only:
        wanted = wanted.where(Specimen.state == "signed")
    return [ReportedSpecimen(*row) for row in session.execute(wanted)]


def rows_of_specimens(session: Session, specimen_ids: Sequence[int]) -> list[ExportRow]:
    """One tidy row a value of these specimens, as `rows_for_export` gives them."""
    return [row for one in _reports(session, specimen_ids) for row in _export_rows(one)]


def to_json(current: SpecimenReport) -> dict[str, Any]:
    """What a signature keeps of a report: its rows and everything that they depend on."""
    min_score = current.min_score
    return {
        **reporting.rests_on(current),
        "min_score": float(min_score) if isinstance(min_score, int | float) else dict(min_score),
        "cut_off_version": current.cut_off_version,
        "objective": current.objective,
        "scale_kind": current.scale_kind,
        "um_per_px": current.um_per_px,
        "fields": [asdict(field) for field in current.fields],
        "withheld": [asdict(field) for field in current.withheld],
        "fields_total": current.fields_total,
        "unreviewed": current.unreviewed,
        "rows": [asdict(row) for row in current.rows],
    }


def rows_of(snapshot: dict[str, Any]) -> tuple[ReportedValue, ...]:
    """The rows of a report that a signature kept, such as `reviews.history` gives."""
    return tuple(
        ReportedValue(
            **row
            | {"group": Group(row["group"]), "per_field": tuple(FieldCount(*counted) for counted in row["per_field"])}
        )
        for row in snapshot["rows"]
    )


def _reports(session: Session, specimen_ids: Sequence[int]) -> list[SpecimenReport]:
    """Reports in the order of the ids, with as many statements for one specimen as for hundreds."""
    found: list[SpecimenReport] = []
    for start in range(0, len(specimen_ids), _BATCH):
        found += _batch(session, specimen_ids[start : start + _BATCH])
    return found


def _batch(session: Session, specimen_ids: Sequence[int]) -> list[SpecimenReport]:
    records = {
        specimen.id: _Record(specimen, patient, table)
        for specimen, patient, table in session.execute(
            select(Specimen, Patient, CutOffTableRow)
            .join(Patient, Patient.id == Specimen.patient_id)
            .join(CutOffTableRow, CutOffTableRow.id == Specimen.cutoff_table_id)
            .where(Specimen.id.in_(specimen_ids))
        )
    }
    signed, amendments = reporting.signatures(session, specimen_ids)
    found = {
        key: _as_signed(record.specimen, record.patient, *signed[key], amendments[key])
        for key, record in records.items()
        if record.specimen.state == "signed"
    }
    found |= _as_they_stand(session, {key: record for key, record in records.items() if key not in found}, amendments)
    return [found[key] for key in specimen_ids if key in found]


def _as_they_stand(
    session: Session, records: Mapping[int, _Record], amendments: Mapping[int, int]
) -> dict[int, SpecimenReport]:
    """Reports of specimens that are not signed, by the specimen's id."""
    analyses = {
        analysis.specimen_id: analysis
        for analysis in session.scalars(
            select(Analysis)
            .where(Analysis.specimen_id.in_(list(records)), Analysis.purpose == "count", Analysis.state != "cancelled")
            .order_by(Analysis.id)  # the newest stays
        )
    }
    totals = Counter(
        session.scalars(
            select(SpecimenField.specimen_id).where(
                SpecimenField.specimen_id.in_(list(records)), SpecimenField.withdrawn_at.is_(None)
            )
        )
    )
    searched: dict[int, list[SpecimenField]] = defaultdict(list)
    counted: dict[int, list[ReportField]] = defaultdict(list)
    withheld: dict[int, list[WithheldField]] = defaultdict(list)
    for field, result in session.execute(
        select(SpecimenField, FieldResult)
        .join(FieldResult, FieldResult.field_id == SpecimenField.id)
        .where(
            FieldResult.analysis_id.in_([analysis.id for analysis in analyses.values()]),
            SpecimenField.withdrawn_at.is_(None),
        )
        .order_by(SpecimenField.position)
    ):
        reason = gate.reason(field, result)
        place = (field.id, field.position, field.name)
        if reason and field.accepted_at is None:
            withheld[field.specimen_id].append(WithheldField(*place, reason))
            continue
        searched[field.specimen_id].append(field)
        counted[field.specimen_id].append(ReportField(*place, reason or None))
    min_scores = {analysis.id: _min_score(analysis) for analysis in analyses.values()}
    left_out = {field.field_id for fields in withheld.values() for field in fields}
    numbers, unreviewed = counts(session, min_scores, without=left_out)
    by_field: dict[int, dict[str, int]] = defaultdict(dict)
    for (_, field_id, class_name), number in numbers.items():
        by_field[field_id][class_name] = number
    tables = {record.table.id: cutoffs.table_of(record.table) for record in records.values()}

    found = {}
    for key, (specimen, patient, table) in records.items():
        analysis = analyses.get(key)
        measured = [_measured(specimen, field, by_field[field.id]) for field in searched[key]]
        found[key] = SpecimenReport(
            **reporting.said_now(specimen, patient, analysis, amendments.get(key, 0)),
            objective=specimen.objective,
            scale_kind=specimen.scale_kind,
            um_per_px=specimen.um_per_px,
            min_score=min_scores[analysis.id] if analysis else 0.0,
            cut_off_version=table.version,
            fields=tuple(counted[key]),
            withheld=tuple(withheld[key]),
            fields_total=totals[key],
            unreviewed=unreviewed.get(analysis.id, 0) if analysis else 0,
            rows=tuple(measure.report(measured, tables[table.id])) if measured else (),
        )
    return found


def _min_score(analysis: Analysis) -> MinScore:
    setting: MinScore = analysis.options.get("min_score", 0.0)
    return setting


def _as_signed(specimen: Specimen, patient: Patient, sign_off: SignOff, by: str, amendments: int) -> SpecimenReport:
    kept = sign_off.report
    return SpecimenReport(
        **reporting.said_when_signed(specimen, patient, sign_off, by, amendments),
        objective=kept["objective"],
        scale_kind=kept["scale_kind"],
        um_per_px=kept["um_per_px"],
        min_score=kept["min_score"],
        cut_off_version=kept["cut_off_version"],
        fields=tuple(ReportField(**field) for field in kept["fields"]),
        withheld=tuple(WithheldField(**field) for field in kept.get("withheld", ())),
        fields_total=kept["fields_total"],
        unreviewed=kept["unreviewed"],
        rows=rows_of(kept),
    )


def _measured(specimen: Specimen, field: SpecimenField, numbers: dict[str, int]) -> MeasuredField:
    disc = field.round_field
    return MeasuredField(
        field_id=field.id,
        objective=specimen.objective,
        scale_kind=specimen.scale_kind,
        counts=numbers,
        um_per_px=specimen.um_per_px,
        area_px=illuminated_area_px(
            field.width_px, field.height_px, (disc[0], disc[1], disc[2]) if disc is not None else None
        ),
    )


def _export_rows(one: SpecimenReport) -> Iterable[ExportRow]:
    signature = one.signature
    no_field = not one.rows and bool(one.withheld)
    for value in measure.report([]) if no_field else one.rows:
        if not value.total and one.is_unvalidated(value.class_name):
            continue  # nobody looked for it: 0 would say that it was looked for and not found
        yield ExportRow(
            patient=one.patient_identifier,
            accession=one.accession,
            class_name=value.class_name,
            group=value.group,
            loinc=value.loinc,
            unit="field" if no_field and one.scale_kind == "unknown" else value.unit,
            fields=value.fields,
            mean=None if no_field else value.mean,
            grade=None if no_field else value.grade,
            cut_off_version=one.cut_off_version,
            model=one.model_key or "",
            weights_sha256=one.weights_sha256 or "",
            reviewed=signature is not None,
            signed_by=signature.by if signature else None,
            signed_at=signature.at if signature else None,
            signature=signature.kind if signature else None,
            amendments=one.amendments,
            withheld=one.withheld_in_words,
            validated=not one.is_unvalidated(value.class_name),
        )
