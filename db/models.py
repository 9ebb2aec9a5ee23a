"""The records RenalCore keeps.

The schema is made by the migrations alone; a test compares them with these classes. Rows of the tables
in `APPEND_ONLY` are never changed or deleted: triggers of the database refuse it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates

from db.engine import UtcDateTime, now

Role = Literal["technologist", "reviewer", "admin"]
Objective = Literal["10x", "20x", "40x", "60x", "100x"]
ScaleKind = Literal["um_per_px", "whole_field", "unknown"]
SpecimenState = Literal["waiting", "running", "needs_review", "signed", "failed", "cancelled"]
AnalysisState = Literal["queued", "running", "done", "failed", "cancelled"]
Purpose = Literal["count", "second_opinion"]
CorrectionAction = Literal["add", "reclassify", "remove", "confirm", "restore"]
GlomerulusAction = Literal["add", "redraw", "remove", "confirm", "mark_sclerosed", "unmark_sclerosed", "restore"]
SignOffKind = Literal["sign", "reopen", "amend"]
HeatMapState = Literal["waiting", "done", "empty", "failed"]
Modality = Literal["sediment", "histology", "ct"]
Stain = Literal["H&E", "PAS", "silver", "trichrome", "other"]
Species = Literal["human", "mouse", "rat", "other"]
ScaleSource = Literal["file", "person"]
CtFormat = Literal["DICOM", "NIfTI"]
CtStepName = Literal["rough", "kidney", "lesion"]
CtAction = Literal["relabel", "remove", "undo"]
CtLesion = Literal["tumour", "cyst"]
CtKidney = Literal[
    "right kidney", "left kidney", "fused kidney", "kidney",
    "right pelvic kidney", "left pelvic kidney", "pelvic kidney",
]  # fmt: skip
"""What a correction calls a kidney; `kidney` alone where its side cannot be told."""

ROLES: tuple[Role, ...] = get_args(Role)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
STAINS: tuple[Stain, ...] = get_args(Stain)
SPECIES: tuple[Species, ...] = get_args(Species)
SPECIMEN_STATES: tuple[SpecimenState, ...] = get_args(SpecimenState)
"""In the order in which a specimen passes through them."""

APPEND_ONLY = (
    "audit_events",
    "field_results",
    "findings",
    "corrections",
    "sign_offs",
    "slide_results",
    "glomerulus_findings",
    "glomerulus_corrections",
    "ct_results",
    "ct_corrections",
)
"""Tables whose rows the database itself refuses to change or delete."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(words: object, name: str) -> sa.Enum:
    return sa.Enum(*get_args(words), name=name, native_enum=False, create_constraint=True, length=24)


# Plain JSON also on PostgreSQL: its text comes back as it was written, which the audit's hashes rely on.
_JSON = sa.JSON(none_as_null=True)
_SHA256 = String(64)


class Base(DeclarativeBase):
    """What all records share: the naming of constraints and the types of columns."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it so
        datetime: UtcDateTime(),
        dict[str, Any]: _JSON,
        list[Any]: _JSON,
        list[float]: _JSON,
        list[dict[str, Any]]: _JSON,
        Role: _one_of(Role, "role"),
        Objective: _one_of(Objective, "objective"),
        ScaleKind: _one_of(ScaleKind, "scale_kind"),
        SpecimenState: _one_of(SpecimenState, "state"),
        AnalysisState: _one_of(AnalysisState, "state"),
        Purpose: _one_of(Purpose, "purpose"),
        CorrectionAction: _one_of(CorrectionAction, "action"),
        GlomerulusAction: _one_of(GlomerulusAction, "action"),
        SignOffKind: _one_of(SignOffKind, "kind"),
        HeatMapState: _one_of(HeatMapState, "state"),
        Modality: _one_of(Modality, "modality"),
        Stain: _one_of(Stain, "stain"),
        Species: _one_of(Species, "species"),
        ScaleSource: _one_of(ScaleSource, "scale_from"),
        CtFormat: _one_of(CtFormat, "format"),
        CtStepName: _one_of(CtStepName, "name"),
        CtAction: _one_of(CtAction, "action"),
    }


class User(Base):
    """Someone who signs in. Never deleted, only deactivated: the audit trail points here."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(150), unique=True)  # casefolded
    full_name: Mapped[str] = mapped_column(String(200))
    role: Mapped[Role]
    password_hash: Mapped[str | None] = mapped_column(String(255))
    is_active: Mapped[bool] = mapped_column(default=True)
    failed_logins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    external_subject: Mapped[str | None] = mapped_column(String(500), unique=True)  # "issuer|subject" of OIDC


class LoginSession(Base):
    """A browser that is signed in. Only the hash of its cookie is kept."""

    __tablename__ = "login_sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(_SHA256, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_seen_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    user: Mapped[User] = relationship()


class OneTimeLink(Base):
    """A link with which a user sets a password, once."""

    __tablename__ = "one_time_links"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(_SHA256, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    user: Mapped[User] = relationship()


class Patient(Base):
    """A person, known by the hospital's number."""

    __tablename__ = "patients"

    id: Mapped[int] = mapped_column(primary_key=True)
    identifier: Mapped[str] = mapped_column(String(100), unique=True)
    name: Mapped[str | None] = mapped_column(String(200))
    name_folded: Mapped[str | None] = mapped_column(String(400))  # SQLite's LIKE folds the case of ASCII only
    created_at: Mapped[datetime] = mapped_column(default=now)

    specimens: Mapped[list[Specimen]] = relationship(back_populates="patient", order_by="Specimen.created_at")

    @validates("name")
    def _folds_name(self, _key: str, name: str | None) -> str | None:
        self.name_folded = None if name is None else name.casefold()
        return name


class CutOffTableRow(Base):
    """One version of the cut-offs that turn a mean count into a grade. Its numbers are never edited."""

    __tablename__ = "cutoff_tables"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(String(100), unique=True)
    title: Mapped[str] = mapped_column(String(200))
    source: Mapped[str] = mapped_column(sa.Text)
    rows: Mapped[list[Any]]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    adopted_at: Mapped[datetime | None] = mapped_column(index=True)  # the default is the one adopted last

    created_by: Mapped[User | None] = relationship()


class Specimen(Base):
    """One sample or one CT study of a patient under one accession number."""

    __tablename__ = "specimens"
    __table_args__ = (
        Index(None, "state", "created_at"),
        Index(None, "modality", "state", "created_at"),
        Index(None, "modality", "created_at"),
        Index(None, "patient_id", "created_at"),
        Index(None, "created_by_id", "created_at"),
        sa.CheckConstraint("um_per_px > 0", name="um_per_px_is_positive"),
        sa.CheckConstraint(
            "modality != 'sediment' OR "
            "(objective IS NOT NULL AND scale_kind IS NOT NULL AND cutoff_table_id IS NOT NULL)",
            name="sediment_is_complete",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"))
    accession: Mapped[str] = mapped_column(String(100), unique=True)
    modality: Mapped[Modality] = mapped_column(default="sediment")
    # Always there for sediment, and never for histology and CT, where every slide or scan has its own scale and nothing
    # is graded.
    objective: Mapped[Objective] = mapped_column(nullable=True)
    scale_kind: Mapped[ScaleKind] = mapped_column(nullable=True)
    um_per_px: Mapped[float | None]
    state: Mapped[SpecimenState] = mapped_column(default="waiting")
    collected_at: Mapped[datetime | None]
    created_by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    cutoff_table_id: Mapped[int] = mapped_column(ForeignKey("cutoff_tables.id"), nullable=True)

    patient: Mapped[Patient] = relationship(back_populates="specimens")
    created_by: Mapped[User] = relationship()
    cutoff_table: Mapped[CutOffTableRow] = relationship()
    fields: Mapped[list[SpecimenField]] = relationship(back_populates="specimen", order_by="SpecimenField.position")
    slides: Mapped[list[Slide]] = relationship(back_populates="specimen", order_by="Slide.position")
    scans: Mapped[list[CtScan]] = relationship(back_populates="specimen", order_by="CtScan.position")
    analyses: Mapped[list[Analysis]] = relationship(back_populates="specimen", order_by="Analysis.id")


class StoredFile(Base):
    """A file in the file store, known by its content."""

    __tablename__ = "stored_files"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(_SHA256, unique=True)
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    media_type: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(default=now)


class SpecimenField(Base):
    """One microscope field of a specimen. Width and height are those of the upright picture."""

    __tablename__ = "specimen_fields"
    __table_args__ = (UniqueConstraint("specimen_id", "file_id"), Index(None, "specimen_id", "position"))

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("specimens.id"))
    position: Mapped[int]
    file_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)
    name: Mapped[str] = mapped_column(String(255))
    width_px: Mapped[int]
    height_px: Mapped[int]
    flags: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    round_field: Mapped[list[float] | None]  # cx, cy, radius in px
    withdrawn_at: Mapped[datetime | None]  # it counts no longer; who withdrew it and why is in the audit trail
    accepted_at: Mapped[datetime | None]  # it counts in spite of its flags; who accepted it and why is in the trail

    specimen: Mapped[Specimen] = relationship(back_populates="fields")
    file: Mapped[StoredFile] = relationship()


class Slide(Base):
    """One scanned slide of a histology specimen.

    Its name is what the laboratory calls it (a block, a level); the name of its file, in which scanners write whose
    it is, is not kept.
    """

    __tablename__ = "slides"
    __table_args__ = (
        UniqueConstraint("specimen_id", "file_id"),
        Index(None, "specimen_id", "position"),
        sa.CheckConstraint("um_per_px > 0", name="um_per_px_is_positive"),
        sa.CheckConstraint("(um_per_px IS NULL) = (scale_from IS NULL)", name="scale_has_a_source"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("specimens.id"))
    position: Mapped[int]
    file_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    format: Mapped[str] = mapped_column(String(100))
    width_px: Mapped[int]
    height_px: Mapped[int]
    um_per_px: Mapped[float | None]  # of its finest level
    scale_from: Mapped[ScaleSource | None]
    stain: Mapped[Stain]
    species: Mapped[Species]
    objective: Mapped[float | None]  # magnification, where the file says it
    flags: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    taken_from: Mapped[str | None] = mapped_column(_SHA256, index=True)  # which file of the watched folder it was
    withdrawn_at: Mapped[datetime | None]  # it counts no longer; who withdrew it and why is in the audit trail

    specimen: Mapped[Specimen] = relationship(back_populates="slides")
    file: Mapped[StoredFile] = relationship()


class CtScan(Base):
    """One series of a CT study, or one NIfTI volume.

    Its name is what the laboratory calls it; names of files and descriptions of series are not kept.
    """

    __tablename__ = "ct_scans"
    __table_args__ = (UniqueConstraint("specimen_id", "file_id"), Index(None, "specimen_id", "position"))

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("specimens.id"))
    position: Mapped[int]
    file_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)  # a zip, or a NIfTI file
    image_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)  # its HU as NIfTI, to be looked at
    name: Mapped[str] = mapped_column(String(100))
    format: Mapped[CtFormat]
    is_deidentified: Mapped[bool]
    phase: Mapped[str | None] = mapped_column(String(100))
    slices: Mapped[int]
    height_px: Mapped[int]
    width_px: Mapped[int]
    spacing_mm: Mapped[list[float]]  # along slices, rows and columns
    flags: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    # Identifiers that DICOM came with, by those in the stored files, for a DICOM SEG alone; some 100 bytes a slice.
    original_uids: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    withdrawn_at: Mapped[datetime | None]  # it counts no longer; who withdrew it and why is in the audit trail

    specimen: Mapped[Specimen] = relationship(back_populates="scans")
    file: Mapped[StoredFile] = relationship(foreign_keys=file_id)
    image: Mapped[StoredFile] = relationship(foreign_keys=image_id)


class Upload(Base):
    """A slide or a CT study on its way to the server, or there and not registered yet.

    How far it is, its part on the disk tells.
    """

    __tablename__ = "uploads"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    modality: Mapped[str] = mapped_column(String(24), default="histology", server_default="histology")
    by_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(255))  # by which whoever uploads it finds the file again; of CT its kind
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    modified_ms: Mapped[int] = mapped_column(sa.BigInteger)  # with name and size it tells which file to go on with
    created_at: Mapped[datetime] = mapped_column(default=now)
    sha256: Mapped[str | None] = mapped_column(_SHA256)  # once it is complete and was checked
    found: Mapped[dict[str, Any] | None]  # by that check: see `uploads.Checked`
    taken_from: Mapped[str | None] = mapped_column(_SHA256)  # which file it is: of the watched folder, or of CT

    by: Mapped[User] = relationship()


class Analysis(Base):
    """One run of one model over the fields, slides or scans of a specimen.

    Its progress is the fields or tiles searched, or the steps done.

    Only analyses that count are reviewed, reported and exported; a second opinion is there to be looked at.
    """

    __tablename__ = "analyses"

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("specimens.id"), index=True)
    purpose: Mapped[Purpose] = mapped_column(default="count", server_default="count")
    model_key: Mapped[str] = mapped_column(String(100))
    weights_sha256: Mapped[str] = mapped_column(_SHA256)
    code_version: Mapped[str] = mapped_column(String(100))
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    device: Mapped[str | None] = mapped_column(String(100))
    state: Mapped[AnalysisState] = mapped_column(default="queued", index=True)
    message: Mapped[str | None] = mapped_column(sa.Text)
    workflow_id: Mapped[str | None] = mapped_column(String(200), index=True)
    requested_by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    specimen: Mapped[Specimen] = relationship(back_populates="analyses")
    requested_by: Mapped[User] = relationship()


class FieldResult(Base):
    """What says that one field was searched in one analysis. Append-only."""

    __tablename__ = "field_results"
    __table_args__ = (UniqueConstraint("analysis_id", "field_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    field_id: Mapped[int] = mapped_column(ForeignKey("specimen_fields.id"), index=True)
    seconds: Mapped[float]
    finished_at: Mapped[datetime] = mapped_column(default=now)
    worker: Mapped[str] = mapped_column(String(200))
    flags: Mapped[list[dict[str, Any]] | None]  # doubts about the field that what was found in it raises


class Finding(Base):
    """One object that a model found, its box in px of the upright field. Append-only."""

    __tablename__ = "findings"
    __table_args__ = (Index(None, "analysis_id", "field_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    field_result_id: Mapped[int] = mapped_column(ForeignKey("field_results.id"), index=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    field_id: Mapped[int] = mapped_column(ForeignKey("specimen_fields.id"))
    class_name: Mapped[str] = mapped_column(String(100))
    score: Mapped[float]
    x1: Mapped[float]
    y1: Mapped[float]
    x2: Mapped[float]
    y2: Mapped[float]


class HeatMap(Base):
    """Where the evidence lies for one finding, or for all of a class in one field: a picture made on demand.

    Made again from the field and the model at any time, so it is neither append-only nor in the audit trail.
    """

    __tablename__ = "heat_maps"
    __table_args__ = (
        UniqueConstraint("finding_id"),
        UniqueConstraint("analysis_id", "field_id", "class_name"),
        sa.CheckConstraint("(finding_id IS NULL) != (class_name IS NULL)", name="finding_or_class"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    field_id: Mapped[int] = mapped_column(ForeignKey("specimen_fields.id"), index=True)
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("findings.id"))
    class_name: Mapped[str | None] = mapped_column(String(100))  # of all its findings in the field
    state: Mapped[HeatMapState] = mapped_column(default="waiting", index=True)
    message: Mapped[str | None] = mapped_column(sa.Text)
    file_id: Mapped[int | None] = mapped_column(ForeignKey("stored_files.id"), index=True)
    workflow_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    analysis: Mapped[Analysis] = relationship()
    field: Mapped[SpecimenField] = relationship()
    file: Mapped[StoredFile | None] = relationship()


class Correction(Base):
    """What someone said about an object; the last correction of an object holds. Append-only.

    `finding_id` points at the model's finding it is about, `added_id` at the correction that added the object by
    hand; a correction that adds an object has neither.
    """

    __tablename__ = "corrections"
    __table_args__ = (Index(None, "analysis_id", "field_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    field_id: Mapped[int] = mapped_column(ForeignKey("specimen_fields.id"))
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("findings.id"), index=True)
    added_id: Mapped[int | None] = mapped_column(ForeignKey("corrections.id"), index=True)
    action: Mapped[CorrectionAction]
    class_name: Mapped[str | None] = mapped_column(String(100))
    x1: Mapped[float | None]
    y1: Mapped[float | None]
    x2: Mapped[float | None]
    y2: Mapped[float | None]
    by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = mapped_column(default=now)
    reason: Mapped[str | None] = mapped_column(sa.Text)

    by: Mapped[User] = relationship()


class SlideBlock(Base):
    """One block of a slide's tiles in one analysis: what is to be searched, and what the network said of it.

    A step towards a `SlideResult`, so neither append-only nor in the audit trail. Once the slide has its result the
    content is dropped.
    """

    __tablename__ = "slide_blocks"
    __table_args__ = (UniqueConstraint("analysis_id", "slide_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    slide_id: Mapped[int] = mapped_column(ForeignKey("slides.id"), index=True)
    position: Mapped[int]  # from the top of the slide
    tiles: Mapped[int]
    plan: Mapped[str] = mapped_column(sa.Text)  # `renalcore.histology.tiles.Block` as JSON
    content: Mapped[bytes | None] = mapped_column(sa.LargeBinary)  # `BlockResult`
    seconds: Mapped[float | None]
    finished_at: Mapped[datetime | None]


class SlideResult(Base):
    """What says that one slide was searched in one analysis. Append-only."""

    __tablename__ = "slide_results"
    __table_args__ = (UniqueConstraint("analysis_id", "slide_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    slide_id: Mapped[int] = mapped_column(ForeignKey("slides.id"), index=True)
    seconds: Mapped[float]  # of the network and of reading
    finished_at: Mapped[datetime] = mapped_column(default=now)
    worker: Mapped[str] = mapped_column(String(200))
    tissue_px: Mapped[float]  # area of the tissue searched, in px of level 0
    downsample: Mapped[float]  # px of level 0 a px that the network was shown


class GlomerulusFinding(Base):
    """One glomerulus that a model found, its outline in px of level 0. Append-only."""

    __tablename__ = "glomerulus_findings"
    __table_args__ = (Index(None, "analysis_id", "slide_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    slide_result_id: Mapped[int] = mapped_column(ForeignKey("slide_results.id"), index=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    slide_id: Mapped[int] = mapped_column(ForeignKey("slides.id"))
    score: Mapped[float]
    outline: Mapped[list[float]]  # x1, y1, x2, y2, ...
    area_px: Mapped[float]
    touches_edge: Mapped[bool]


class GlomerulusCorrection(Base):
    """What someone said about a glomerulus; the corrections of one are replayed in their order. Append-only.

    `finding_id` points at the model's finding it is about, `added_id` at the correction that added the glomerulus by
    hand; a correction that adds one has neither.
    """

    __tablename__ = "glomerulus_corrections"
    __table_args__ = (Index(None, "analysis_id", "slide_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    slide_id: Mapped[int] = mapped_column(ForeignKey("slides.id"))
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("glomerulus_findings.id"), index=True)
    added_id: Mapped[int | None] = mapped_column(ForeignKey("glomerulus_corrections.id"), index=True)
    action: Mapped[GlomerulusAction]
    outline: Mapped[list[float] | None]  # where it is added or redrawn
    by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = mapped_column(default=now)

    by: Mapped[User] = relationship()


class CtStep(Base):
    """What one of the three steps of an analysis said of a scan, for the next to go on with.

    A step towards a `CtResult`, so neither append-only nor in the audit trail. Once the scan has its result the content
    is dropped.
    """

    __tablename__ = "ct_steps"
    __table_args__ = (UniqueConstraint("analysis_id", "scan_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    scan_id: Mapped[int] = mapped_column(ForeignKey("ct_scans.id"), index=True)
    position: Mapped[int]
    name: Mapped[CtStepName]
    content: Mapped[bytes | None] = mapped_column(sa.LargeBinary)  # `renalcore.ct.predict.Crops`
    seconds: Mapped[float]
    finished_at: Mapped[datetime] = mapped_column(default=now)


class CtResult(Base):
    """What one analysis found in one scan. Append-only."""

    __tablename__ = "ct_results"
    __table_args__ = (UniqueConstraint("analysis_id", "scan_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    scan_id: Mapped[int] = mapped_column(ForeignKey("ct_scans.id"), index=True)
    labels_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)  # NIfTI on the grid of the scan
    measures: Mapped[dict[str, Any]]  # `renalcore.ct.measure.Measures`
    words: Mapped[str] = mapped_column(sa.Text)
    seconds: Mapped[dict[str, Any]]  # of each stage
    worker: Mapped[str] = mapped_column(String(200))
    finished_at: Mapped[datetime] = mapped_column(default=now)

    labels: Mapped[StoredFile] = relationship()


class CtCorrection(Base):
    """A lesion that someone gave another label, or deleted as a kidney may be, or such a change undone. Append-only.

    Each keeps the labels and measures as they are after it, so that nothing is computed when a scan is opened.
    """

    __tablename__ = "ct_corrections"
    __table_args__ = (
        UniqueConstraint("undone_id"),
        Index(None, "analysis_id", "scan_id"),
        sa.CheckConstraint("(action = 'undo') = (undone_id IS NOT NULL)", name="undoes_one"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    scan_id: Mapped[int] = mapped_column(ForeignKey("ct_scans.id"))
    action: Mapped[CtAction]
    voxel: Mapped[list[Any] | None]  # one of the lesion's or kidney's: slice, row, column
    was: Mapped[CtLesion | CtKidney | None] = mapped_column(String(24))
    label: Mapped[str | None] = mapped_column(String(24))
    undone_id: Mapped[int | None] = mapped_column(ForeignKey("ct_corrections.id"))
    labels_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)
    measures: Mapped[dict[str, Any]]
    words: Mapped[str] = mapped_column(sa.Text)
    by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = mapped_column(default=now)

    by: Mapped[User] = relationship()
    labels: Mapped[StoredFile] = relationship()


class SignOff(Base):
    """A reviewer's signature under the report, which is kept as signed, or the reopening of one. Append-only."""

    __tablename__ = "sign_offs"

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("specimens.id"), index=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    kind: Mapped[SignOffKind]
    by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = mapped_column(default=now, index=True)
    meaning: Mapped[str] = mapped_column(sa.Text)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    report: Mapped[dict[str, Any]]  # empty for a reopening

    by: Mapped[User] = relationship()


class AuditEvent(Base):
    """One thing that someone did. Append-only and chained: each hash covers the row and the hash before it.

    Only `audit.record` writes here. `id` counts from 1 without a gap.
    """

    __tablename__ = "audit_events"
    __table_args__ = (Index(None, "entity", "entity_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    actor_name: Mapped[str] = mapped_column(String(150))
    action: Mapped[str] = mapped_column(String(100), index=True)
    entity: Mapped[str] = mapped_column(String(100))
    entity_id: Mapped[str | None] = mapped_column(String(100))
    old: Mapped[Any | None] = mapped_column(_JSON)
    new: Mapped[Any | None] = mapped_column(_JSON)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    prev_hash: Mapped[str] = mapped_column(_SHA256)
    hash: Mapped[str] = mapped_column(_SHA256, unique=True)


class AuditHead(Base):
    """Where the audit trail ends: one row, which moves forward only, an event at a time."""

    __tablename__ = "audit_head"
    __table_args__ = (sa.CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    events: Mapped[int]
    hash: Mapped[str] = mapped_column(_SHA256)


class WorkerNode(Base):
    """A worker that has reported for duty."""

    __tablename__ = "worker_nodes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str | None] = mapped_column(String(100))
    started_at: Mapped[datetime] = mapped_column(default=now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=now, index=True)
    stopped_at: Mapped[datetime | None]
