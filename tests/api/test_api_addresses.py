"""A signed URL leads no nearer to this machine than the API is."""

from __future__ import annotations

import pytest
import trio
from api_server import FakeClock, always, answer, enveloped, served

from pictofs.api.address import Locality, item_of, literal, locality
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.errors import InvalidResponse, PictofsError, ServerUnreachable, TimedOut


@pytest.mark.parametrize(
    ("where", "hosts"),
    [
        (
            Locality.LOOPBACK,
            "127.0.0.1 127.9.9.9 127.1 2130706433 0x7f000001 localhost [::1] ::ffff:127.0.0.1",
        ),
        (Locality.LOOPBACK, "LocalHost. 64:ff9b::7f00:1 2002:7f00:1::"),
        (Locality.PRIVATE, "10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 fd00::1 ::ffff:10.0.0.1"),
        (
            Locality.NOWHERE,
            "169.254.169.254 fe80::1 ::ffff:169.254.169.254 0.0.0.0 0 :: 224.0.0.1 ff02::1",
        ),
        (Locality.NOWHERE, "255.255.255.255 240.0.0.1 fd00:ec2::254 100.100.100.200"),
        (Locality.PUBLIC, "8.8.8.8 2a00:1450::1"),
    ],
)
def test_k6_where_addresses_are(where: Locality, hosts: str) -> None:
    for host in hosts.split():
        address = literal(host)
        assert address is not None, host
        assert locality(address) is where, host


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example", "a.localhost", "1.2.3.4.5", ""]
)
def test_k6_names_are_no_addresses(host: str) -> None:
    assert literal(host) is None


def storage_of(api: Locality, clock: FakeClock, **options: bool) -> Storage:
    request_stats = RequestStats()
    request_stats.api_locality = api
    return Storage(clock=clock, request_stats=request_stats, connect_timeout=0.2, **options)  # type: ignore[arg-type]


async def refusal(storage: Storage, url: str) -> PictofsError:
    with pytest.raises(PictofsError) as caught:
        async with storage.get(url):
            pass
    return caught.value


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0", "2130706433"]
)
@pytest.mark.parametrize("near", [Locality.PUBLIC, Locality.PRIVATE])
async def test_k6_no_url_leads_to_this_machine(clock: FakeClock, near: Locality, host: str) -> None:
    async with served(always(answer(b"metadata"))) as server:
        for options in ({}, {"allow_plain_http": True}):
            storage = storage_of(near, clock, **options)
            assert isinstance(
                await refusal(storage, f"https://{host}:{server.port}/x"), InvalidResponse
            )
            assert isinstance(
                await refusal(storage, f"http://{host}:{server.port}/x"), InvalidResponse
            )

        await trio.testing.wait_all_tasks_blocked(0.01)

        assert server.connections == 0


async def test_k6_nor_a_name_that_resolves_to_it(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name service is the part that a hostile server owns."""

    class Resolver(trio.abc.HostnameResolver):
        def __init__(self, *addresses: str) -> None:
            self.addresses = list(addresses)

        async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
            import socket

            address = self.addresses[0] if len(self.addresses) == 1 else self.addresses.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    async with served(always(answer(b"metadata"))) as server:
        url = f"http://storage.example:{server.port}/x"
        for addresses in (
            ["127.0.0.1"],
            ["10.0.0.1"],
            ["169.254.169.254"],
            ["8.8.8.8", "127.0.0.1"],
        ):
            trio.socket.set_custom_hostname_resolver(Resolver(*addresses))
            try:
                near = Locality.PUBLIC
                storage = storage_of(near, clock, allow_plain_http="10.0.0.1" not in addresses)
                if "10.0.0.1" in addresses:
                    url = url.replace("http:", "https:")
                assert isinstance(await refusal(storage, url), InvalidResponse)
            finally:
                trio.socket.set_custom_hostname_resolver(None)

        assert server.requests == []


async def test_k6_a_private_network_for_an_api_that_is_in_one(clock: FakeClock) -> None:
    url = "https://10.255.255.1/x"
    assert isinstance(await refusal(storage_of(Locality.PUBLIC, clock), url), InvalidResponse)
    for storage in (
        storage_of(Locality.PRIVATE, clock),
        storage_of(Locality.LOOPBACK, clock),
        storage_of(Locality.PUBLIC, clock, allow_plain_http=True),
    ):
        assert isinstance(await refusal(storage, url), (ServerUnreachable, TimedOut))


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1", "[fd00:ec2::254]"]
)
async def test_k6_link_local_addresses_for_none(clock: FakeClock, host: str) -> None:
    storage = storage_of(Locality.LOOPBACK, clock, allow_plain_http=True)
    assert isinstance(await refusal(storage, f"http://{host}/latest/meta-data"), InvalidResponse)


async def test_k6_through_a_proxy_addresses_are_looked_at_all_the_same(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(always(answer(b"metadata"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        storage = storage_of(Locality.PUBLIC, clock, allow_plain_http=True)
        assert isinstance(await refusal(storage, "http://169.254.169.254/x"), InvalidResponse)
        assert proxy.connections == 0


async def test_k6_the_api_is_where_it_has_answered_from(key: ApiKey, clock: FakeClock) -> None:
    request_stats = RequestStats()
    async with served(always(answer(enveloped([])))) as server:
        async with Api(server.url, key, clock=clock, request_stats=request_stats) as api:
            await api.datasets()
        assert request_stats.api_locality is Locality.LOOPBACK
    Api("https://api.example", key, clock=clock, request_stats=(other := RequestStats()))
    assert other.api_locality is Locality.PUBLIC


@pytest.mark.parametrize(
    ("route", "path", "item"),
    [
        ("/datasets/", "/datasets/", ""),
        ("/datasets/{dataset}", "/datasets/street%20signs", "dataset 'street signs'"),
        ("/images/{image}/metadata", "/images/9a0e/metadata", "image '9a0e'"),
        ("/images/{dataset}/{path}", "/images/d/cam%201/a.jpg", "image 'cam 1/a.jpg'"),
        ("/exports/{export}/download", "/exports/e%2Ff/download", "export 'e/f'"),
        ("/datasets/{dataset}", "/elsewhere", ""),
    ],
)
def test_e3_what_a_request_is_about(route: str, path: str, item: str) -> None:
    assert item_of(route, path) == item
