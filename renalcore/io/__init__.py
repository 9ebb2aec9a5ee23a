"""Readers: files of any origin in, typed values out."""
