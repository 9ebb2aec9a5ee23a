"""The pages of the web app, one folder a section; no page file lies directly here."""
