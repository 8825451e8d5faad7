"""Every check, in the order in which things are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pictofs.app import mount_table, probe, running
from pictofs.app.doctor import contract as compare
from pictofs.app.doctor import crawlers, disk, machine, places, server, sharing
from pictofs.app.doctor.finding import Finding, failed, ok, warn, within
from pictofs.config import Access, LibrarySettings, find_access, resolve
from pictofs.errors import PictofsError
from pictofs.model.status import CacheStatus

LOCAL = 10.0
REMOTE = 20.0
"""Seconds for a look at this machine, and at the server."""


def run_checks(
    mountpoint: Path | None,
    given: Mapping[str, str | bool | None],
    *,
    profile: str | None,
    key_file: Path | None,
    environ: Mapping[str, str],
    home: Path,
    contract: bool = False,
) -> Iterator[Finding]:
    """Findings, one by one.

    `mountpoint`: where something is mounted or shall be; None for all mounts. `given`, `profile`,
    `key_file`: what `pictofs mount` would be given. `contract`: whether the server is compared with
    the contract, by some 15 requests more.
    """
    ours = mountpoint if mountpoint is not None and _is_mount(mountpoint) else None
    owner = running.owner_else(ours) if ours else None
    if owner is not None:
        yield ok(
            "checks", f"{mountpoint} is {owner}'s mount: what one of your own needs is left out"
        )
        yield from places.check_places(ours, None)
        return

    state = probe.state_of(ours) if ours else None
    cache = _cache_of(ours) if ours and state == "live" else None

    yield from within("machine", LOCAL, machine.check_machine)
    yield from within("crawlers", LOCAL, crawlers.check_crawlers)

    access: Access | None = None
    try:
        access = find_access(profile=profile, key_file=key_file, environ=environ, home=home)
    except PictofsError as error:
        yield failed("key", error)
    else:
        yield from _key(access)

    cache_dir: Path | None = None
    try:
        base_url = given.get("base_url") or (access.base_url if access else None)
        settings = LibrarySettings(
            **resolve(LibrarySettings, {**given, "base_url": base_url}, environ)
        )
    except PictofsError as error:
        yield failed("settings", error)
    else:
        settings = _as_mounted(settings, given, cache)
        cache_dir = settings.cache_dir
        if access is None:
            yield warn("API", f"{settings.base_url} was not asked: there is no key")
        else:
            yield from within("API", REMOTE, partial(server.check_server, settings, access.api_key))
            yield from within("server", LOCAL, partial(server.traits, settings, access.api_key))
            if contract:
                look = partial(compare.check_contract, settings, access.api_key)
                yield from within("contract", compare.SECONDS + LOCAL, look)

        if settings.engine is not None:
            look = partial(sharing.check_sharing, settings.engine)
            yield from within(sharing.CHECK, sharing.SECONDS + LOCAL, look)

        of = ours if cache is not None and cache.dir == str(cache_dir) else None
        yield from within("cache", LOCAL, partial(disk.check_disk, settings, of))

    yield from places.check_places(mountpoint, cache_dir, state)


def _is_mount(path: Path) -> bool:
    mount = mount_table.mount_at(path)
    return mount is not None and mount.ours


def _cache_of(mountpoint: Path) -> CacheStatus | None:
    """The cache of a live mount, as far as it tells."""
    status = running.read_status(mountpoint)
    return status.cache if status is not None else None


def _as_mounted(
    settings: LibrarySettings, given: Mapping[str, str | bool | None], cache: CacheStatus | None
) -> LibrarySettings:
    """The settings with the cache that a mount has, unless another is `given` as an option."""
    if cache is None or cache.dir is None or given.get("cache_dir") is not None:
        return settings

    settings = replace(settings, cache_dir=Path(cache.dir))
    if cache.limit is None or given.get("cache_size") is not None:
        return settings
    return replace(settings, cache_size=cache.limit)


def _key(access: Access) -> Iterator[Finding]:
    for warning in access.warnings:
        yield warn("key", *warning)

    if access.api_key.startswith("pk_deploy_"):
        yield warn(
            "key",
            f"found ({access.source}), but it looks like one for deployments",
            "make one for the API (pk_live_)",
        )
    elif not access.api_key.startswith("pk_"):
        yield warn(
            "key",
            f"found ({access.source}), but keys begin with pk_",
            "look whether it was copied whole",
        )
    else:
        yield ok("key", f"found: {access.source}")
