"""The shared engine: a Valkey or Redis in which the nodes of a cluster share answers and turns."""
