"""The environment's proxies, and what is told of them."""

from __future__ import annotations

import pytest
from api_server import SECRET, FakeClock, always, answer, served

from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.proxies import Proxies
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.errors import Invalid, ServerUnreachable, TimedOut


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fe12::1", False),
        ("[fd00::]/8", "fd12::1", True),
        ("::1, [::1]", "api.example", False),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("[2001:db8::1]:8443", "2001:db8::1", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("1.2", "9.9.1.2", False),
        ("api.example", "api.example", True),
        ("API.Example.", "api.example", True),
        ("api.example", "a.api.example", True),
        ("api.example", "notapi.example", False),
        (".example", "api.example", True),
        ("*.example", "api.example", True),
        ("api.example:443", "api.example", True),
        ("api.example:8443", "api.example", False),
        ("https://api.example", "api.example", True),
        ("*", "api.example", True),
        ("other.example *", "api.example", True),
        ("other.example,,api.example", "api.example", True),
        ("", "api.example", False),
        (".", "api.example", False),
        ("[", "api.example", False),
        ("]:80,:::,[::1,fd00::/999,/8", "api.example", False),
    ],
)
async def test_t4_no_proxy_is_read_alike_for_both_hosts(
    no_proxy: str,
    host: str,
    exempt: bool,
    key: ApiKey,
    clock: FakeClock,
    request_stats: RequestStats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = Proxies().find("https", host, 443)

    assert (found is None) == exempt

    shown = f"[{host}]" if ":" in host else host
    Api(f"https://{shown}", key, clock=clock, request_stats=request_stats)
    Storage(clock=clock, request_stats=request_stats)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY", "https_proxy"])
async def test_t4_a_socks_proxy_is_refused_with_what_works(
    variable: str,
    key: ApiKey,
    clock: FakeClock,
    request_stats: RequestStats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "socks5h://me:secret@127.0.0.1:1080")
    with pytest.raises(Invalid) as caught:
        Api("https://api.example", key, clock=clock, request_stats=request_stats)
    text = str(caught.value)

    assert f"{variable} names a socks5h proxy" in text
    assert "HTTPS_PROXY=http://HOST:PORT" in text
    assert "NO_PROXY=api.example,storage.googleapis.com" in text
    assert "secret" not in text

    # Either advice, followed to the letter, works for both hosts.
    monkeypatch.setenv("NO_PROXY", "api.example,storage.googleapis.com")
    Api("https://api.example", key, clock=clock, request_stats=request_stats)

    assert Proxies().find("https", "storage.googleapis.com", 443) is None

    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    Api("https://api.example", key, clock=clock, request_stats=request_stats)

    assert Proxies().find("https", "storage.googleapis.com", 443) is not None


async def test_t4_a_dead_proxy_is_named(
    key: ApiKey, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:1")
    async with Api(
        "https://api.example", key, clock=clock, request_stats=request_stats, max_retries=0
    ) as api:
        with pytest.raises(
            ServerUnreachable,
            match=r"the proxy 127\.0\.0\.1:1 can't be reached: Connection refused; check HTTPS_PROXY",
        ) as one:
            await api.datasets()

    async with Storage(clock=clock, request_stats=request_stats) as storage:
        with pytest.raises(
            ServerUnreachable, match=r"the proxy 127\.0\.0\.1:1 can't be reached"
        ) as other:
            async with storage.get("https://storage.example/x"):
                pass

    assert "secret" not in str(one.value) + str(other.value)


async def test_t4_a_proxy_that_refuses_is_named(
    key: ApiKey, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(always(answer(b"", 407))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with Api(
            "https://api.example", key, clock=clock, request_stats=request_stats, max_retries=0
        ) as api:
            with pytest.raises(
                ServerUnreachable, match=f"the proxy 127.0.0.1:{proxy.port} refused .*407.*password"
            ):
                await api.datasets()

    assert SECRET.encode() not in b"".join(proxy.requests)


async def test_t4_a_silent_proxy_is_named(
    key: ApiKey, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with Api(
        "http://api.example",
        key,
        clock=clock,
        request_stats=request_stats,
        max_retries=0,
        allow_plain_http=True,
    ) as api:
        with pytest.raises((ServerUnreachable, TimedOut), match="proxy"):
            await api.datasets()
