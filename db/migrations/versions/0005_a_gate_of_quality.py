"""A search can flag a field, and a reviewer can accept one that its flags keep out of the counts."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("specimen_fields", sa.Column("accepted_at", UtcDateTime(), nullable=True))
    op.add_column("field_results", sa.Column("flags", sa.JSON(none_as_null=True), nullable=True))
