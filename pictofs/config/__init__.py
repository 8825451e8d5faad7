"""Settings, each of which is declared once, and the search for the API key."""

from pictofs.config.access import Access, find_access, home_folder, profile_names
from pictofs.config.library import LibrarySettings, default_cache_dir
from pictofs.config.mount import MountSettings
from pictofs.config.server import ServerSettings
from pictofs.config.setting import Setting, declared, resolve
from pictofs.config.values import FreeSpace

__all__ = [
    "Access",
    "FreeSpace",
    "LibrarySettings",
    "MountSettings",
    "ServerSettings",
    "Setting",
    "declared",
    "default_cache_dir",
    "find_access",
    "home_folder",
    "profile_names",
    "resolve",
]
