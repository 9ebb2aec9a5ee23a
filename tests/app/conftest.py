"""Fixtures of the tests that talk HTTP to a running app."""

from tests.running_app import web_app

__all__ = ["web_app"]
