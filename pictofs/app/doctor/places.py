"""Mount points: those that there are, and the one that is meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pictofs import __version__
from pictofs.app import mount_table, mounting, probe, running
from pictofs.app.doctor.finding import Finding, fail, failed, ok, warn
from pictofs.app.logs import usual_log_path
from pictofs.errors import PictofsError


def check_places(
    mountpoint: Path | None, cache_dir: Path | None, state: probe.State | None = None
) -> Iterator[Finding]:
    """Each mount of ours, or what is at `mountpoint` alone.

    `cache_dir`: where a mount that can't be asked has its log, as far as is known. `state`: of the
    mount at `mountpoint`, if it was looked at already.
    """
    found = sorted({mount.path for mount in mount_table.all_mounts() if mount.ours})

    if mountpoint is None:
        for path in found:
            yield _mount(path, cache_dir, probe.state_of(path))
        if not found:
            yield ok("mounts", "none")
    elif mountpoint in found:
        yield _mount(mountpoint, cache_dir, state or probe.state_of(mountpoint))
    else:
        yield _folder(mountpoint)


def _folder(path: Path) -> Finding:
    other = mount_table.mount_at(path)
    if other is not None:
        return fail(
            "mount point",
            f"{other.source} ({other.fstype}) is mounted at {path}",
            "name an empty folder",
        )

    try:
        mounting.check_folder(path)
    except PictofsError as error:
        return failed("mount point", error)

    return ok("mount point", f"{path} is empty: it can be mounted on")


def _mount(path: Path, cache_dir: Path | None, state: probe.State) -> Finding:
    if state != "live":
        log = usual_log_path(cache_dir, path) if cache_dir else None
        told = f"; its log is {log}" if log and log.exists() else ""
        problem, advice = running.trouble(path, state)
        return fail("mount", f"{path}: {problem}{told}", advice)

    status = running.read_status(path)
    if status is None:
        owner = running.owner_else(path)
        whose = f"it is {owner}'s, closed to you" if owner else "its status can't be read"
        return ok("mount", f"{path}: live; {whose}")
    if status.bugs:
        return warn(
            "mount",
            f"{path}: live, and met {status.bugs} bugs",
            f"report what its log says{f': {status.log}' if status.log else ''}",
        )
    if status.pictofs != __version__:
        return warn("mount", f"{path}: live, by pictofs {status.pictofs}", "mount it again")
    if status.online is False:
        return warn("mount", f"{path}: live, without the server: {status.offline_reason}")

    return ok("mount", f"{path}: live{f'; its log is {status.log}' if status.log else ''}")
