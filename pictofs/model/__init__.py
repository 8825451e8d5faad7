"""Immutable records and pure functions on them. Nothing here does I/O."""
