"""Pictures of where the evidence for a finding lies."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heat_maps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("field_id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=True),
        sa.Column("class_name", sa.String(length=100), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "waiting",
                "done",
                "empty",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("file_id", sa.Integer(), nullable=True),
        sa.Column("workflow_id", sa.String(length=200), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("(finding_id IS NULL) != (class_name IS NULL)", name=op.f("ck_heat_maps_finding_or_class")),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"], name=op.f("fk_heat_maps_analysis_id")),
        sa.ForeignKeyConstraint(["field_id"], ["specimen_fields.id"], name=op.f("fk_heat_maps_field_id")),
        sa.ForeignKeyConstraint(["file_id"], ["stored_files.id"], name=op.f("fk_heat_maps_file_id")),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name=op.f("fk_heat_maps_finding_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heat_maps")),
        sa.UniqueConstraint("finding_id", name=op.f("uq_heat_maps_finding_id")),
        sa.UniqueConstraint(
            "analysis_id", "field_id", "class_name", name=op.f("uq_heat_maps_analysis_id_field_id_class_name")
        ),
    )
    op.create_index(op.f("ix_heat_maps_field_id"), "heat_maps", ["field_id"])
    op.create_index(op.f("ix_heat_maps_file_id"), "heat_maps", ["file_id"])
    op.create_index(op.f("ix_heat_maps_state"), "heat_maps", ["state"])
