"""The settings for requests to the server."""

from __future__ import annotations

from dataclasses import dataclass

from pictofs.config import values
from pictofs.config.setting import setting
from pictofs.errors import Invalid

_API = "Pictograph"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where the API is, and how long to wait for it."""

    base_url: str = setting(
        "Where the API is.",
        panel=_API,
        parse=values.url,
        metavar="URL",
        default="https://api.pictograph.io",
        env="PICTOGRAPH_BASE_URL",
    )
    timeout: float = setting(
        "How long a file operation may wait for the server before it fails.",
        panel=_API,
        parse=values.positive_seconds,
        metavar="SECONDS",
        default="30",
        env="PICTOGRAPH_TIMEOUT",
    )
    max_retries: int = setting(
        "How often a failed request is tried again.",
        panel=_API,
        parse=values.count,
        metavar="N",
        default="3",
        env="PICTOGRAPH_MAX_RETRIES",
    )
    allow_plain_http: bool = setting(
        "Send the key over unencrypted http to a host other than this machine.", panel=_API
    )

    def __post_init__(self) -> None:
        plain = self.base_url.startswith("http://") and not values.is_loopback(self.base_url)
        if plain and not self.allow_plain_http:
            raise Invalid(
                f"{self.base_url} would get your key unencrypted",
                hint="write https://, or --allow-plain-http if you trust every network on the way",
            )
