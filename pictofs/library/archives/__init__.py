"""The archives of finished exports, as trees of files."""
