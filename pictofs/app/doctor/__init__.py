"""Looks for what keeps a mount from working, or will.

That is a machine, a key, a server, a disk, or the mounts that there are. Nothing is changed, and
nothing may hang: whatever could is asked in a process of its own, which is left behind.
"""

from pictofs.app.doctor.checks import run_checks
from pictofs.app.doctor.finding import Finding

__all__ = ["Finding", "run_checks"]
