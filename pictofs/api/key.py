"""The API key: a secret that can be sent and not be seen."""

from __future__ import annotations

from pictofs.errors import Invalid

_WHAT_TO_DO = "set PICTOGRAPH_API_KEY to a key from the organization's settings (pk_live_...)"


class ApiKey:
    """A wrapped secret. Only `reveal` gives it away; `repr` and `str` show nothing of its random part."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        """Wrap `secret`, without the white space around it.

        Raises `Invalid` where no HTTP header can carry it. Its shape is the server's business: any
        non-blank ASCII string works with the vendor's SDK too.
        """
        secret = secret.strip()
        if not secret:
            raise Invalid(f"the API key is blank: {_WHAT_TO_DO}")
        if not all("!" <= char <= "~" for char in secret):
            raise Invalid(
                "the API key holds a space, a control or a non-ASCII character, perhaps from pasting: "
                + _WHAT_TO_DO
            )
        self._secret = secret

    def reveal(self) -> str:
        """The secret itself: for the X-API-Key header and nothing else."""
        return self._secret

    def scrub(self, text: str) -> str:
        """`text` without the secret, for words that come from a server."""
        return text.replace(self._secret, "[API key]")

    def __repr__(self) -> str:
        shown = "pk_live_" if self._secret.startswith("pk_live_") else ""
        return f"ApiKey({shown}...)"

    __str__ = __repr__
