"""`pictofs mount`."""

# ruff: noqa: PLC0415 - trio and the rest of a mount are imported after the fork, never for --help

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from pictofs.api.key import ApiKey
from pictofs.app import cache_folder, daemon, logs, mount_table, mounting, probe
from pictofs.cli.failure import say_retry, warn
from pictofs.cli.formatting import say
from pictofs.cli.options import ApiKeyFile, Mountpoint, Profile, access_for, with_settings
from pictofs.config import MountSettings
from pictofs.errors import MountFailed, TimedOut
from pictofs.store.shared.extra import require_cluster

START_SECONDS = 30.0
"""How long a mount may take to start, on top of the deadline of one operation."""


@with_settings(MountSettings)
def mount(
    mountpoint: Mountpoint,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: str | bool | None,
) -> None:
    """Mount the organization that the key belongs to at MOUNTPOINT, an empty folder.

    Returns once the mount answers; its process stays in the background until `pictofs unmount
    MOUNTPOINT`.
    """
    access = access_for(profile, api_key_file, given)
    settings = MountSettings.load(mount_table.resolve(mountpoint), given, os.environ)

    if settings.engine is not None and not settings.offline:
        require_cluster()
    if settings.fuse_fd is None:
        mounting.check_machine(settings.allow_other)
    run(settings, ApiKey(access.api_key, access.source))


def run(settings: MountSettings, api_key: ApiKey) -> None:
    """Mount, in this process or in one of its own.

    Raises:
        PictofsError: the mount can't be made.
    """
    if settings.fuse_fd is not None:
        mounting.check_given(settings.fuse_fd, settings.mountpoint)
        _run(settings, api_key, settings.fuse_fd, lambda: None)
        return

    claim = mounting.Claim(settings.mountpoint)

    try:
        if mounting.prepare(settings.mountpoint):
            warn(f"{settings.mountpoint} was left over by a mount that died; it is mounted anew")

        _run(settings, api_key, claim.fd, claim.release)
    finally:
        claim.release()


def _run(
    settings: MountSettings, api_key: ApiKey, keep: int, on_mounted: Callable[[], None]
) -> None:
    """`keep`: a descriptor that the mount's process needs. `on_mounted`: for that process."""
    cache_folder.claim(settings.cache_dir)

    if settings.foreground:
        if settings.log_file:
            logs.log_to_file(settings.log_file, settings)
        else:
            logs.log_to_terminal(settings)
        _serve(settings, api_key, on_mounted, lambda: _announce(settings))
        return

    serve = partial(_serve, settings, api_key, on_mounted)
    seconds = settings.timeout + START_SECONDS
    daemon.start(serve, settings, seconds, on_retry=say_retry, keep={keep})
    _check_answers(settings)
    _announce(settings)


def _serve(
    settings: MountSettings,
    api_key: ApiKey,
    on_mounted: Callable[[], None],
    on_ready: Callable[[], None],
) -> None:
    from pictofs.app.mount import serve

    def ready() -> None:
        on_mounted()
        on_ready()

    serve(settings, api_key, ready)


def _announce(settings: MountSettings) -> None:
    say(
        f"{settings.base_url} is mounted at {settings.mountpoint}",
        f"What lies where, also what ls does not show: {settings.mountpoint}/.pictofs/README.md",
    )


def _check_answers(settings: MountSettings) -> None:
    if settings.fuse_fd is not None and mount_table.mount_at(settings.mountpoint) is None:
        # It is mounted where this process does not see it.
        return

    def ask() -> bytes:
        (settings.mountpoint / ".pictofs").stat()
        return b""

    try:
        probe.run_in_subprocess(probe.TIMEOUT_S, ask)
    except (OSError, TimedOut) as error:
        raise MountFailed(
            f"{settings.mountpoint} was mounted and does not answer ({error}); "
            f"its log is {logs.log_path(settings)}"
        ) from None
