"""Annotation files: one request each, or many by an export."""
