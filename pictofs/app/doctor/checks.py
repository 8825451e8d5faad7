"""Every check, in the order in which things are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from pictofs.app.doctor import contract as compare
from pictofs.app.doctor import crawlers, disk, machine, places, server
from pictofs.app.doctor.finding import Finding, failed, ok, warn, within
from pictofs.config import Access, LibrarySettings, find_access, resolve
from pictofs.errors import PictofsError

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
        cache_dir = settings.cache_dir
        if access is None:
            yield warn("API", f"{settings.base_url} was not asked: there is no key")
        else:
            yield from within("API", REMOTE, partial(server.check_server, settings, access.api_key))
            yield from within("server", LOCAL, partial(server.traits, settings, access.api_key))
            if contract:
                look = partial(compare.check_contract, settings, access.api_key)
                yield from within("contract", compare.SECONDS + LOCAL, look)

        yield from within("cache", LOCAL, partial(disk.check_disk, settings))

    yield from places.check_places(mountpoint, cache_dir)


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
