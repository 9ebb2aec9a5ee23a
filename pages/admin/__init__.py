"""Pages for administrators: users, cut-off tables, models, audit trail, system."""
