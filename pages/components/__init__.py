"""Widgets, guards and viewers shared by the pages."""
