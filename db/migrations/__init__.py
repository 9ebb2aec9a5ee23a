"""The schema's history: the only way to a database."""
