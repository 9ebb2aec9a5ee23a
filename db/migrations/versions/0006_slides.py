"""Kidney slides: specimens of histology, their slides, and the uploads that bring them."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _one_of(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=24)


def _specimens() -> sa.Table:
    """As 0001 made it: SQLite rebuilds the table, and does not tell its checks."""
    return sa.Table(
        "specimens",
        sa.MetaData(),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Integer(), nullable=False),
        sa.Column("accession", sa.String(length=100), nullable=False),
        sa.Column("modality", sa.String(length=24), nullable=False),
        sa.Column("objective", sa.String(length=24), nullable=False),
        sa.Column("scale_kind", sa.String(length=24), nullable=False),
        sa.Column("um_per_px", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("collected_at", UtcDateTime(), nullable=True),
        sa.Column("created_by_id", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("cutoff_table_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("objective IN ('10x', '20x', '40x', '60x', '100x')", name=op.f("ck_specimens_objective")),
        sa.CheckConstraint(
            "scale_kind IN ('um_per_px', 'whole_field', 'unknown')", name=op.f("ck_specimens_scale_kind")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'needs_review', 'signed', 'failed', 'cancelled')",
            name=op.f("ck_specimens_state"),
        ),
        sa.CheckConstraint("um_per_px > 0", name=op.f("ck_specimens_um_per_px_is_positive")),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_specimens_created_by_id")),
        sa.ForeignKeyConstraint(["cutoff_table_id"], ["cutoff_tables.id"], name=op.f("fk_specimens_cutoff_table_id")),
        sa.ForeignKeyConstraint(["patient_id"], ["patients.id"], name=op.f("fk_specimens_patient_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_specimens")),
        sa.UniqueConstraint("accession", name=op.f("uq_specimens_accession")),
        sa.Index(op.f("ix_specimens_created_at"), "created_at"),
        sa.Index(op.f("ix_specimens_created_by_id_created_at"), "created_by_id", "created_at"),
        sa.Index(op.f("ix_specimens_patient_id_created_at"), "patient_id", "created_at"),
        sa.Index(op.f("ix_specimens_state_created_at"), "state", "created_at"),
    )


def upgrade() -> None:
    with op.batch_alter_table("specimens", copy_from=_specimens()) as specimens:
        for name, kind in (
            ("objective", sa.String(length=24)),
            ("scale_kind", sa.String(length=24)),
            ("cutoff_table_id", sa.Integer()),
        ):
            specimens.alter_column(name, existing_type=kind, nullable=True)
        specimens.create_check_constraint(op.f("ck_specimens_modality"), "modality IN ('sediment', 'histology')")
        specimens.create_check_constraint(
            op.f("ck_specimens_sediment_is_complete"),
            "modality != 'sediment' OR "
            "(objective IS NOT NULL AND scale_kind IS NOT NULL AND cutoff_table_id IS NOT NULL)",
        )

    op.create_index(op.f("ix_specimens_modality_state_created_at"), "specimens", ["modality", "state", "created_at"])
    op.create_index(op.f("ix_specimens_modality_created_at"), "specimens", ["modality", "created_at"])

    op.create_table(
        "slides",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("specimen_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("file_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("format", sa.String(length=100), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("um_per_px", sa.Double(), nullable=True),
        sa.Column("scale_from", _one_of("scale_from", "file", "person"), nullable=True),
        sa.Column("stain", _one_of("stain", "H&E", "PAS", "silver", "trichrome", "other"), nullable=False),
        sa.Column("species", _one_of("species", "human", "mouse", "rat", "other"), nullable=False),
        sa.Column("objective", sa.Double(), nullable=True),
        sa.Column("flags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("taken_from", sa.String(length=64), nullable=True),
        sa.CheckConstraint("um_per_px > 0", name=op.f("ck_slides_um_per_px_is_positive")),
        sa.CheckConstraint("(um_per_px IS NULL) = (scale_from IS NULL)", name=op.f("ck_slides_scale_has_a_source")),
        sa.ForeignKeyConstraint(["file_id"], ["stored_files.id"], name=op.f("fk_slides_file_id")),
        sa.ForeignKeyConstraint(["specimen_id"], ["specimens.id"], name=op.f("fk_slides_specimen_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slides")),
        sa.UniqueConstraint("specimen_id", "file_id", name=op.f("uq_slides_specimen_id_file_id")),
    )
    op.create_index(op.f("ix_slides_file_id"), "slides", ["file_id"])
    op.create_index(op.f("ix_slides_specimen_id_position"), "slides", ["specimen_id", "position"])
    op.create_index(op.f("ix_slides_taken_from"), "slides", ["taken_from"])

    op.create_table(
        "uploads",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("modified_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("found", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("taken_from", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_uploads_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("key", name=op.f("uq_uploads_key")),
    )
    op.create_index(op.f("ix_uploads_by_id"), "uploads", ["by_id"])
