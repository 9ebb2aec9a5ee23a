"""A field can be withdrawn from its specimen."""

import sqlalchemy as sa
from alembic import op

from db.engine import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("specimen_fields") as fields:
        fields.add_column(sa.Column("withdrawn_at", UtcDateTime(), nullable=True))
