"""The kernel adapter: the only layer that imports pyfuse3."""
