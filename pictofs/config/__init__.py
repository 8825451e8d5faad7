"""Settings, each declared once, and where the key comes from."""

from pictofs.config.access import Access, find_access
from pictofs.config.mount import MountSettings, default_cache_dir
from pictofs.config.setting import Setting, declared, setting
from pictofs.config.values import FreeSpace

__all__ = [
    "Access",
    "FreeSpace",
    "MountSettings",
    "Setting",
    "declared",
    "default_cache_dir",
    "find_access",
    "setting",
]
