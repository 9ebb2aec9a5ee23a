"""Reports: what a specimen's fields add up to, before and after it is signed, each value traceable to its fields.

A signed specimen reports what was signed, word for word; any other reports what stands now.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db import cutoffs, gate
from db.models import (
    Analysis,
    CutOffTableRow,
    FieldResult,
    Modality,
    Objective,
    Patient,
    ScaleKind,
    SignOff,
    Specimen,
    SpecimenField,
    SpecimenState,
    User,
)
from db.objects import ONLY_WHEN_CONFIRMED, MinScore, counts, threshold
from renalcore.errors import InputError, NotFound
from renalcore.export.csv import ExportRow, Whence
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
class Signature:
    """Who answers for a report.

    Attributes:
        sign_off_id: The signature.
        kind: `sign` or `amend`.
        by: Full name of the reviewer.
        at: When, UTC.
        meaning: What the signature means.
        reason: Why the report was amended, else None.
    """

    sign_off_id: int
    kind: str
    by: str
    at: datetime
    meaning: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class SpecimenReport:
    """What is reported of one specimen.

    Attributes:
        specimen_id: The specimen.
        accession: Its accession number.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        state: State of the specimen.
        collected_at: When the urine was collected, None where unknown.
        created_at: When it was registered.
        objective: The objective its fields were taken with.
        scale_kind: How the area of a field is known.
        um_per_px: Micrometres a pixel, where that is how.
        analysis_id: The analysis that counts; None where there is none, and then there is no row either.
        model_key: The model.
        weights_sha256: Digest of its weights.
        code_version: Version of the software that ran it.
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

    specimen_id: int
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    state: SpecimenState
    collected_at: datetime | None
    created_at: datetime
    objective: Objective
    scale_kind: ScaleKind
    um_per_px: float | None
    analysis_id: int | None
    model_key: str | None
    weights_sha256: str | None
    code_version: str | None
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

    @property
    def taken_at(self) -> datetime:
        """When the urine was collected, or failing that registered: its place in the patient's history."""
        return self.collected_at or self.created_at


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
    ids = chosen(session, "sediment", patient_id=patient_id)
    return sorted(_reports(session, ids), key=lambda one: (one.taken_at, one.specimen_id))


def rows_for_export(
    session: Session,
    *,
    specimen_id: int | None = None,
    patient_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[ExportRow]:
    """One tidy row a value of every analysed specimen that is asked for, in the order of registration.

    Signed specimens give what was signed; the others what stands now, with nothing in the columns of the signature.
    A class that counts only where a person confirms it has a row only where somebody did.

    Args:
        session: An open session.
        specimen_id: Only this specimen.
        patient_id: Only specimens of this patient.
        since: Only specimens registered at this moment or later.
        until: Only specimens registered before this moment.

    Raises:
        InputError: Nothing says which specimens.
    """
    ids = chosen(session, "sediment", specimen_id=specimen_id, patient_id=patient_id, since=since, until=until)
    return rows_of_specimens(session, ids)


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
    wanted = _reportable("sediment").add_columns(Specimen.accession, Patient.identifier)
    wanted = wanted.join(Patient, Patient.id == Specimen.patient_id)
    if since is not None:
        wanted = wanted.where(Specimen.created_at >= since)
    if until is not None:
        wanted = wanted.where(Specimen.created_at < until)
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
        "analysis_id": current.analysis_id,
        "model_key": current.model_key,
        "weights_sha256": current.weights_sha256,
        "code_version": current.code_version,
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


def chosen(
    session: Session,
    modality: Modality,
    *,
    specimen_id: int | None = None,
    patient_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[int]:
    """The specimens of one kind that have a report, those that pass every condition given, as they were registered.

    Raises:
        InputError: No condition is given.
    """
    if specimen_id is None and patient_id is None and since is None and until is None:
        raise InputError("Say what to export: a specimen, a patient or a range of dates.")
    wanted = _reportable(modality)
    if specimen_id is not None:
        wanted = wanted.where(Specimen.id == specimen_id)
    if patient_id is not None:
        wanted = wanted.where(Specimen.patient_id == patient_id)
    if since is not None:
        wanted = wanted.where(Specimen.created_at >= since)
    if until is not None:
        wanted = wanted.where(Specimen.created_at < until)
    return list(session.scalars(wanted))


def _reportable(modality: Modality) -> Select[int]:
    return (
        select(Specimen.id)
        .where(Specimen.modality == modality, Specimen.state.in_(("needs_review", "signed")))
        .order_by(Specimen.created_at, Specimen.id)
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
    signed, amendments = signatures(session, specimen_ids)
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
            **identity(specimen, patient),
            objective=specimen.objective,
            scale_kind=specimen.scale_kind,
            um_per_px=specimen.um_per_px,
            analysis_id=analysis.id if analysis else None,
            model_key=analysis.model_key if analysis else None,
            weights_sha256=analysis.weights_sha256 if analysis else None,
            code_version=analysis.code_version if analysis else None,
            min_score=min_scores[analysis.id] if analysis else 0.0,
            cut_off_version=table.version,
            fields=tuple(counted[key]),
            withheld=tuple(withheld[key]),
            fields_total=totals[key],
            unreviewed=unreviewed.get(analysis.id, 0) if analysis else 0,
            rows=tuple(measure.report(measured, tables[table.id])) if measured else (),
            signature=None,
            amendments=amendments.get(key, 0),
        )
    return found


def signatures(session: Session, specimen_ids: Sequence[int]) -> tuple[dict[int, tuple[SignOff, str]], dict[int, int]]:
    """The last signature of each of these specimens with the name of who gave it, and the number of amendments."""
    last: dict[int, tuple[SignOff, str]] = {}
    amendments: dict[int, int] = defaultdict(int)
    for sign_off, full_name, username in session.execute(
        select(SignOff, User.full_name, User.username)
        .join(User, User.id == SignOff.by_id)
        .where(SignOff.specimen_id.in_(specimen_ids), SignOff.kind != "reopen")
        .order_by(SignOff.id)
    ):
        last[sign_off.specimen_id] = (sign_off, full_name or username)
        amendments[sign_off.specimen_id] += sign_off.kind == "amend"
    return last, amendments


def _min_score(analysis: Analysis) -> MinScore:
    setting: MinScore = analysis.options.get("min_score", 0.0)
    return setting


def signature_of(sign_off: SignOff, by: str) -> Signature:
    """A signature as a report shows it, given the name of the reviewer."""
    return Signature(sign_off.id, sign_off.kind, by, sign_off.at, sign_off.meaning, sign_off.reason)


def whence(model_key: str | None, weights_sha256: str | None, signature: Signature | None, amendments: int) -> Whence:
    """What the lines of an exported report rest on."""
    return Whence(
        model=model_key or "",
        weights_sha256=weights_sha256 or "",
        signed_by=signature.by if signature else None,
        signed_at=signature.at if signature else None,
        signature=signature.kind if signature else None,
        amendments=amendments,
    )


def identity(specimen: Specimen, patient: Patient) -> dict[str, Any]:
    """What every report says of its specimen and patient, by the names of its attributes."""
    return {
        "specimen_id": specimen.id,
        "accession": specimen.accession,
        "patient_id": patient.id,
        "patient_identifier": patient.identifier,
        "patient_name": patient.name,
        "state": specimen.state,
        "collected_at": specimen.collected_at,
        "created_at": specimen.created_at,
    }


def _as_signed(specimen: Specimen, patient: Patient, sign_off: SignOff, by: str, amendments: int) -> SpecimenReport:
    kept = sign_off.report
    return SpecimenReport(
        **identity(specimen, patient),
        objective=kept["objective"],
        scale_kind=kept["scale_kind"],
        um_per_px=kept["um_per_px"],
        analysis_id=kept["analysis_id"],
        model_key=kept["model_key"],
        weights_sha256=kept["weights_sha256"],
        code_version=kept["code_version"],
        min_score=kept["min_score"],
        cut_off_version=kept["cut_off_version"],
        fields=tuple(ReportField(**field) for field in kept["fields"]),
        withheld=tuple(WithheldField(**field) for field in kept.get("withheld", ())),
        fields_total=kept["fields_total"],
        unreviewed=kept["unreviewed"],
        rows=rows_of(kept),
        signature=signature_of(sign_off, by),
        amendments=amendments,
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
