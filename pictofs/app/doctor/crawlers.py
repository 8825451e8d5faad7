"""Whether programs that index a whole machine stay out of mounts.

Each of their rounds costs requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pictofs.app.doctor.finding import Finding, ok, warn
from pictofs.app.mount_table import FSTYPE

UPDATEDB = Path("/etc/updatedb.conf")


def check_crawlers() -> Iterator[Finding]:
    """updatedb, which lists every file of the machine once a day, for locate."""
    try:
        text = UPDATEDB.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    yield _updatedb(text)


def _updatedb(text: str) -> Finding:
    found = re.search(r'^\s*PRUNEFS\s*=\s*"([^"]*)"', text, re.MULTILINE)
    pruned = found.group(1).lower().split() if found else []

    # Some versions take `fuse` for every kind of it, others for that word alone.
    if FSTYPE in pruned:
        return ok("updatedb", f"stays out of mounts: {UPDATEDB} has {FSTYPE}")

    return warn(
        "updatedb",
        f"lists mounts that its user may read, two requests a dataset: PRUNEFS in {UPDATEDB} lacks {FSTYPE}",
        f"write {FSTYPE} into PRUNEFS in {UPDATEDB} (as root)",
    )
