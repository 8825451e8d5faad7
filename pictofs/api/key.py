"""The API key, wrapped so that no message or log shows it."""

from __future__ import annotations

from pictofs.errors import Invalid

_WHAT_TO_DO = "copy it again from the platform's page on API keys (pk_live_...)"


class ApiKey:
    """A wrapped secret. Only `reveal` returns it; `repr` and `str` hide its random part."""

    __slots__ = ("_secret", "source")

    def __init__(self, secret: str, source: str = "") -> None:
        """Wrap `secret`, without the white space around it.

        `source`: where it was found, in words, for messages.

        Raises `Invalid` if no HTTP header can carry it. Nothing else is checked: the vendor's SDK
        takes any non-blank ASCII string as well.
        """
        secret = secret.strip()
        if not secret:
            raise Invalid(f"the API key{_from(source)} is blank", hint=_WHAT_TO_DO)
        if not all("!" <= char <= "~" for char in secret):
            raise Invalid(
                f"the API key{_from(source)} holds a space, a control or a non-ASCII character, "
                "perhaps from pasting",
                hint=_WHAT_TO_DO,
            )

        self._secret = secret
        self.source = source

    def reveal(self) -> str:
        """The secret itself, for the X-API-Key header only."""
        return self._secret

    def scrub(self, text: str) -> str:
        """`text`, such as a server's message, without the secret."""
        return text.replace(self._secret, "[API key]")

    def __repr__(self) -> str:
        shown = "pk_live_" if self._secret.startswith("pk_live_") else ""
        return f"ApiKey({shown}...)"

    __str__ = __repr__


def _from(source: str) -> str:
    return f" from {source}" if source else ""
