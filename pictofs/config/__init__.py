"""Settings, each of which is declared once, and the search for the API key."""

from pictofs.config.access import (
    Access,
    check_profile_name,
    find_access,
    home_folder,
    profile_names,
    save_profile,
)
from pictofs.config.library import LibrarySettings, default_cache_dir
from pictofs.config.mount import MountSettings
from pictofs.config.server import ServerSettings
from pictofs.config.setting import Setting, declared, lookup, resolve
from pictofs.config.values import FreeSpace

__all__ = [
    "Access",
    "FreeSpace",
    "LibrarySettings",
    "MountSettings",
    "ServerSettings",
    "Setting",
    "check_profile_name",
    "declared",
    "default_cache_dir",
    "find_access",
    "home_folder",
    "lookup",
    "profile_names",
    "resolve",
    "save_profile",
]
