"""CT: specimens that are studies, their scans, the steps of a search, what was found, and what people say of it."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime
from db.migrations.guards import make_append_only

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_MODALITY = "ck_specimens_modality"


def _one_of(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=24)


def _to(column: str, table: str, on: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"], name=op.f(f"fk_{on}_{column}"))


def _specimens() -> sa.Table:
    """As 0006 left it: SQLite rebuilds the table, and does not tell its checks."""
    return sa.Table(
        "specimens",
        sa.MetaData(),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("accession", sa.String(length=100), nullable=False),
        sa.Column("modality", sa.String(length=24), nullable=False),
        sa.Column("objective", sa.String(length=24), nullable=True),
        sa.Column("scale_kind", sa.String(length=24), nullable=True),
        sa.Column("um_per_px", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("collected_at", UtcDateTime(), nullable=True),
        sa.Column("created_by_id", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("cutoff_table_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("objective IN ('10x', '20x', '40x', '60x', '100x')", name=op.f("ck_specimens_objective")),
        sa.CheckConstraint(
            "scale_kind IN ('um_per_px', 'whole_field', 'unknown')", name=op.f("ck_specimens_scale_kind")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'needs_review', 'signed', 'failed', 'cancelled')",
            name=op.f("ck_specimens_state"),
        ),
        sa.CheckConstraint("um_per_px > 0", name=op.f("ck_specimens_um_per_px_is_positive")),
        sa.CheckConstraint("modality IN ('sediment', 'histology')", name=op.f(_MODALITY)),
        sa.CheckConstraint(
            "modality != 'sediment' OR "
            "(objective IS NOT NULL AND scale_kind IS NOT NULL AND cutoff_table_id IS NOT NULL)",
            name=op.f("ck_specimens_sediment_is_complete"),
        ),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_specimens_created_by_id")),
        sa.ForeignKeyConstraint(["cutoff_table_id"], ["cutoff_tables.id"], name=op.f("fk_specimens_cutoff_table_id")),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_specimens_patient_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_specimens")),
        sa.UniqueConstraint("accession", name=op.f("uq_specimens_accession")),
        sa.Index(op.f("ix_specimens_created_at"), "created_at"),
        sa.Index(op.f("ix_specimens_created_by_id_created_at"), "created_by_id", "created_at"),
        sa.Index(op.f("ix_specimens_patient_id_created_at"), "patient_id", "created_at"),
        sa.Index(op.f("ix_specimens_state_created_at"), "state", "created_at"),
        sa.Index(op.f("ix_specimens_modality_state_created_at"), "modality", "state", "created_at"),
        sa.Index(op.f("ix_specimens_modality_created_at"), "modality", "created_at"),
    )


def upgrade() -> None:
    with op.batch_alter_table("specimens", copy_from=_specimens()) as specimens:
        specimens.drop_constraint(op.f(_MODALITY), type_="check")
        specimens.create_check_constraint(op.f(_MODALITY), "modality IN ('sediment', 'histology', 'ct')")

    op.add_column("uploads", sa.Column("modality", sa.String(length=24), nullable=False, server_default="histology"))

    op.create_table(
        "ct_scans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("specimen_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("file_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("format", _one_of("format", "DICOM", "NIfTI"), nullable=False),
        sa.Column("is_deidentified", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.String(length=100), nullable=True),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("spacing_mm", _JSON, nullable=False),
        sa.Column("flags", _JSON, nullable=False),
        sa.Column("withdrawn_at", UtcDateTime(), nullable=True),
        _to("specimen_id", "specimens", "ct_scans"),
        _to("file_id", "stored_files", "ct_scans"),
        _to("image_id", "stored_files", "ct_scans"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ct_scans")),
        sa.UniqueConstraint("specimen_id", "file_id", name=op.f("uq_ct_scans_specimen_id_file_id")),
    )
    op.create_index(op.f("ix_ct_scans_file_id"), "ct_scans", ["file_id"])
    op.create_index(op.f("ix_ct_scans_image_id"), "ct_scans", ["image_id"])
    op.create_index(op.f("ix_ct_scans_specimen_id_position"), "ct_scans", ["specimen_id", "position"])

    op.create_table(
        "ct_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("scan_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", _one_of("name", "rough", "kidney", "lesion"), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        _to("analysis_id", "analyses", "ct_steps"),
        _to("scan_id", "ct_scans", "ct_steps"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ct_steps")),
        sa.UniqueConstraint(
            "analysis_id", "scan_id", "position", name=op.f("uq_ct_steps_analysis_id_scan_id_position")
        ),
    )
    op.create_index(op.f("ix_ct_steps_scan_id"), "ct_steps", ["scan_id"])

    op.create_table(
        "ct_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("scan_id", sa.Integer(), nullable=False),
        sa.Column("labels_id", sa.Integer(), nullable=False),
        sa.Column("measures", _JSON, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("seconds", _JSON, nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        _to("analysis_id", "analyses", "ct_results"),
        _to("scan_id", "ct_scans", "ct_results"),
        _to("labels_id", "stored_files", "ct_results"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ct_results")),
        sa.UniqueConstraint("analysis_id", "scan_id", name=op.f("uq_ct_results_analysis_id_scan_id")),
    )
    op.create_index(op.f("ix_ct_results_scan_id"), "ct_results", ["scan_id"])
    op.create_index(op.f("ix_ct_results_labels_id"), "ct_results", ["labels_id"])

    op.create_table(
        "ct_corrections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("scan_id", sa.Integer(), nullable=False),
        sa.Column("action", _one_of("action", "relabel", "remove", "undo"), nullable=False),
        sa.Column("voxel", _JSON, nullable=True),
        sa.Column("was", sa.String(length=24), nullable=True),
        sa.Column("label", sa.String(length=24), nullable=True),
        sa.Column("undone_id", sa.Integer(), nullable=True),
        sa.Column("labels_id", sa.Integer(), nullable=False),
        sa.Column("measures", _JSON, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(action = 'undo') = (undone_id IS NOT NULL)", name=op.f("ck_ct_corrections_undoes_one")),
        _to("analysis_id", "analyses", "ct_corrections"),
        _to("scan_id", "ct_scans", "ct_corrections"),
        _to("undone_id", "ct_corrections", "ct_corrections"),
        _to("labels_id", "stored_files", "ct_corrections"),
        _to("by_id", "users", "ct_corrections"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ct_corrections")),
        sa.UniqueConstraint("undone_id", name=op.f("uq_ct_corrections_undone_id")),
    )
    op.create_index(op.f("ix_ct_corrections_analysis_id_scan_id"), "ct_corrections", ["analysis_id", "scan_id"])
    op.create_index(op.f("ix_ct_corrections_labels_id"), "ct_corrections", ["labels_id"])
    make_append_only("ct_results", (("id",), ("analysis_id", "scan_id")))
    make_append_only("ct_corrections", (("id",), ("undone_id",)))
