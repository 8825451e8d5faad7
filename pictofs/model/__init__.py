"""Frozen nouns and pure rules on them. Nothing here does I/O."""
