"""How Alembic runs a migration: always inside the transaction of the connection that `db.engine.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from db.migrations.scope import ours
from db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_name=ours,
    render_as_batch=True,
    transactional_ddl=True,  # SQLite can, though Alembic does not assume so
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
