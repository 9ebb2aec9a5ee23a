"""An analysis counts, or is a second opinion."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In the words of both databases: Alembic would rebuild the whole table on SQLite for the sake of the check.
    op.execute(
        "ALTER TABLE analyses ADD COLUMN purpose VARCHAR(24) DEFAULT 'count' NOT NULL "
        "CONSTRAINT ck_analyses_purpose CHECK (purpose IN ('count', 'second_opinion'))"
    )
