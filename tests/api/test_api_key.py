"""The key shows itself to nobody who does not ask for it by name."""

from __future__ import annotations

import pytest
from api_server import SECRET

from pictofs.api.key import ApiKey
from pictofs.errors import Invalid


def test_it_is_masked() -> None:
    key = ApiKey(f"  {SECRET}\n")
    assert key.reveal() == SECRET
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert "pk_live_..." in shown
        assert SECRET[8:12] not in shown
    assert repr(ApiKey("other")) == "ApiKey(...)"


@pytest.mark.parametrize(
    "secret", ["", " ", "\t\n", "pk live", "pk\x00", "pk\nlive", "schlüssel", "pk_\u200b", "\ud800"]
)
def test_what_no_header_carries(secret: str) -> None:
    with pytest.raises(Invalid, match=r"API key from PICTOGRAPH_API_KEY .*copy it again") as caught:
        ApiKey(secret, "PICTOGRAPH_API_KEY")
    assert not secret.strip() or secret not in str(caught.value)
