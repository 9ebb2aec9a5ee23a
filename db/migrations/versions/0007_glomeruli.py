"""Slides are searched: blocks of tiles, glomeruli found, what people say about them; slides can be withdrawn."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime
from db.migrations.guards import make_append_only

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ACTIONS = ("add", "redraw", "remove", "confirm", "mark_sclerosed", "unmark_sclerosed", "restore")


def _to(column: str, table: str, on: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"], name=op.f(f"fk_{on}_{column}"))


def upgrade() -> None:
    op.add_column("slides", sa.Column("withdrawn_at", UtcDateTime(), nullable=True))
    op.create_table(
        "slide_blocks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("slide_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("tiles", sa.Integer(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        _to("analysis_id", "analyses", "slide_blocks"),
        _to("slide_id", "slides", "slide_blocks"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slide_blocks")),
        sa.UniqueConstraint(
            "analysis_id", "slide_id", "position", name=op.f("uq_slide_blocks_analysis_id_slide_id_position")
        ),
    )
    op.create_index(op.f("ix_slide_blocks_slide_id"), "slide_blocks", ["slide_id"])
    op.create_table(
        "slide_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("slide_id", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("tissue_px", sa.Double(), nullable=False),
        sa.Column("downsample", sa.Double(), nullable=False),
        _to("analysis_id", "analyses", "slide_results"),
        _to("slide_id", "slides", "slide_results"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slide_results")),
        sa.UniqueConstraint("analysis_id", "slide_id", name=op.f("uq_slide_results_analysis_id_slide_id")),
    )
    op.create_index(op.f("ix_slide_results_slide_id"), "slide_results", ["slide_id"])
    op.create_table(
        "glomerulus_findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slide_result_id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("slide_id", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("outline", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("area_px", sa.Double(), nullable=False),
        sa.Column("touches_edge", sa.Boolean(), nullable=False),
        _to("slide_result_id", "slide_results", "glomerulus_findings"),
        _to("analysis_id", "analyses", "glomerulus_findings"),
        _to("slide_id", "slides", "glomerulus_findings"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_glomerulus_findings")),
    )
    op.create_index(op.f("ix_glomerulus_findings_slide_result_id"), "glomerulus_findings", ["slide_result_id"])
    op.create_index(
        op.f("ix_glomerulus_findings_analysis_id_slide_id"), "glomerulus_findings", ["analysis_id", "slide_id"]
    )
    op.create_table(
        "glomerulus_corrections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("slide_id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=True),
        sa.Column("added_id", sa.Integer(), nullable=True),
        sa.Column(
            "action",
            sa.Enum(*_ACTIONS, name="action", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("outline", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("by_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        _to("analysis_id", "analyses", "glomerulus_corrections"),
        _to("slide_id", "slides", "glomerulus_corrections"),
        _to("finding_id", "glomerulus_findings", "glomerulus_corrections"),
        _to("added_id", "glomerulus_corrections", "glomerulus_corrections"),
        _to("by_id", "users", "glomerulus_corrections"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_glomerulus_corrections")),
    )
    op.create_index(op.f("ix_glomerulus_corrections_finding_id"), "glomerulus_corrections", ["finding_id"])
    op.create_index(op.f("ix_glomerulus_corrections_added_id"), "glomerulus_corrections", ["added_id"])
    op.create_index(
        op.f("ix_glomerulus_corrections_analysis_id_slide_id"), "glomerulus_corrections", ["analysis_id", "slide_id"]
    )
    make_append_only("slide_results", (("id",), ("analysis_id", "slide_id")))
    make_append_only("glomerulus_findings")
    make_append_only("glomerulus_corrections")
