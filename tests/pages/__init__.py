"""Tests of the pages and their components, without a browser."""
