"""Fixtures of the tests that talk HTTP to a running app."""

from tests.running_app import running_app, web_app

__all__ = ["running_app", "web_app"]
