"""The kernel adapter: the only room that imports pyfuse3."""
