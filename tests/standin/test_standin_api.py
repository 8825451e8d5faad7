from __future__ import annotations

import unicodedata
from urllib.parse import quote

import httpx
import pytest

from standin import PRESETS, StandIn

API = "/api/v1/developer"


def test_wrong_slashes_are_307(api: httpx.Client, standin: StandIn) -> None:
    for wrong, right in (
        ("/datasets", "/datasets/"),
        ("/images?dataset=small", "/images/?dataset=small"),
        ("/datasets/small/", "/datasets/small"),
        ("/exports", "/exports/"),
    ):
        answer = api.get(wrong)
        assert answer.status_code == 307, wrong
        assert answer.headers["location"] == standin.api_url + API + right


def test_unknown_query_parameters_are_400(api: httpx.Client) -> None:
    for url in (
        "/images/?dataset=small&dataset_id=x",
        "/datasets/?page=1",
        "/images/?dataset_name=small",
    ):
        answer = api.get(url)
        assert answer.status_code == 400
        assert "Unknown query parameter(s)" in answer.json()["detail"]


def test_errors_have_both_envelopes(api: httpx.Client) -> None:
    answer = api.get("/datasets/nope")
    message = "Dataset 'nope' not found"
    error = {"code": "not_found", "message": message, "details": None}
    assert answer.json() == {"error": error, "detail": message}
    assert answer.headers["x-request-id"]
    problem = api.get("/images/?dataset=small&limit=1001").json()
    assert problem["detail"] == problem["error"]["details"]["errors"]
    assert problem["detail"][0]["loc"] == ["query", "limit"]
    assert api.get("/images/").status_code == 422


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        (
            "POST",
            "/annotations/small/part-000/image-000000.jpg",
            {"annotations": [], "image_id": "x"},
        ),
        ("POST", "/datasets/", {"name": "x", "slug": "y"}),
        ("POST", "/batch/images/move", {"dataset": "small", "image_ids": ["x"]}),
        ("POST", "/directories/", {"dataset": "small"}),
        ("POST", "/datasets/", "not json"),
    ],
)
def test_strict_bodies(api: httpx.Client, method: str, url: str, body: object) -> None:
    content = body if isinstance(body, str) else None
    answer = api.request(method, url, json=None if content else body, content=content)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "validation_error"


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "bbox", "name": "car"},
        {"type": "bbox", "name": "car", "bounding_box": {"x": 0, "y": 0, "w": 0, "h": 1}},
        {
            "type": "bbox",
            "name": "car",
            "bounding_box": {"x": 0, "y": 0, "w": 1, "h": 1},
            "colour": "red",
        },
        {"type": "bbox", "name": " ", "bounding_box": {"x": 0, "y": 0, "w": 1, "h": 1}},
        {"type": "polygon", "name": "lake", "polygon": {"paths": [[{"x": 0, "y": 0}]]}},
        {"type": "polyline", "name": "lane", "polyline": {"path": [{"x": 0, "y": 0}]}},
        {"type": "skeleton", "name": "nose"},
        {
            "type": "keypoint",
            "name": "nose",
            "keypoint": {"x": 0, "y": 0},
            "bounding_box": {"x": 0, "y": 0, "w": 1, "h": 1},
        },
    ],
)
def test_wrong_annotations_are_422(api: httpx.Client, broken: dict[str, object]) -> None:
    url = "/annotations/small/part-000/image-000000.jpg"
    assert api.post(url, json={"annotations": [broken]}).status_code == 422


def test_idempotency_key_answers_as_before(api: httpx.Client, standin: StandIn) -> None:
    headers = {"Idempotency-Key": "a" * 32}
    first = api.post("/datasets/", json={"name": "x"}, headers=headers)
    again = api.post("/datasets/", json={"name": "x"}, headers=headers)
    assert first.json() == again.json()
    assert (first.status_code, again.status_code) == (201, 201)
    assert api.post("/datasets/", json={"name": "x"}).status_code == 409
    standin.clock.advance(90_000)
    assert api.post("/datasets/", json={"name": "x"}, headers=headers).status_code == 409


def test_rate_headers(api: httpx.Client, standin: StandIn) -> None:
    standin.switches.hourly_limit = 10
    left = [int(api.get("/datasets/").headers["x-ratelimit-remaining"]) for _ in range(3)]
    assert left == [9, 8, 7]
    standin.switches.rate_headers = False
    assert "x-ratelimit-limit" not in api.get("/datasets/").headers


def test_budget_slides(api: httpx.Client, standin: StandIn) -> None:
    standin.switches.hourly_limit = 2
    assert api.get("/datasets/").status_code == 200
    standin.clock.advance(1800)
    assert [api.get("/datasets/").status_code for _ in range(2)] == [200, 429]
    standin.clock.advance(1801)
    assert [api.get("/datasets/").status_code for _ in range(2)] == [200, 429]


def test_grants_narrow_what_a_key_sees(api: httpx.Client, standin: StandIn) -> None:
    organization = standin.organization
    other = organization.add_dataset("other")
    hidden = organization.add_image(other, "x.jpg")
    small = organization["small"]
    key = organization.add_key("viewer", {small.id: ("/part-001",)})
    api.headers["X-API-Key"] = key.secret

    assert [each["name"] for each in api.get("/datasets/").json()["data"]] == ["small"]
    assert api.get("/datasets/other").status_code == 404
    assert api.get(f"/images/{hidden.id}/metadata").status_code == 404

    page = api.get("/images/?dataset=small").json()

    assert page["pagination"]["total"] == 4
    assert {row["directory_path"] for row in page["data"]} == {"/part-001"}
    assert [row["full_path"] for row in api.get("/directories/small").json()] == ["/part-001"]
    assert api.get("/images/small/part-000/image-000000.jpg").status_code == 404
    assert len(api.get("/datasets/small/download").json()["data"]["items"]) == 4


def test_keyed_bytes_and_their_range_switch(api: httpx.Client, standin: StandIn) -> None:
    url, asked = "/images/small/part-000/image-000000.jpg", {"Range": "bytes=5-9"}
    whole = api.get(url)

    assert (whole.status_code, len(whole.content)) == (200, 20_000)
    assert whole.headers["content-type"] == "image/jpeg"
    assert api.get(url, headers=asked).status_code == 200

    standin.switches.api_range = True
    part = api.get(url, headers=asked)

    assert (part.status_code, part.content) == (206, whole.content[5:10])
    assert api.get(url, headers={"Range": "bytes=20000-"}).status_code == 416
    assert api.get(f"/images/{next(iter(standin.organization.images))}").content == whole.content
    assert api.head(url).headers["content-length"] == "20000"


def test_cold_reads_by_switch(api: httpx.Client, standin: StandIn) -> None:
    standin.organization["small"].storage_class = "coldline"
    url = "/images/small/part-000/image-000000.jpg"
    for route in (url, "/datasets/small/download"):
        answer = api.get(route)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "dataset_cold")
    standin.switches.cold_reads = True
    assert api.get(url).status_code == 200
    assert api.get("/datasets/small/download").status_code == 200


def test_annotation_file_variants(api: httpx.Client, standin: StandIn) -> None:
    image = next(iter(standin.organization.images.values()))
    url = f"/annotations/{image.id}/file"
    exported = api.get(url).json()
    assert list(exported)[:4] == ["image", "image_url", "image_uuid", "image_path"]
    assert exported["annotations"] == standin.organization.annotations(image)
    standin.switches.annotation_file = "enveloped"
    assert api.get(url).json() == {"data": exported}
    standin.switches.annotation_file = "bare"
    assert api.get(url).json()["image_id"] == image.id


def test_updated_at_policy(api: httpx.Client, standin: StandIn) -> None:
    def moved(url: str, body: object) -> bool:
        standin.clock.advance(10)
        before = api.get("/datasets/small").json()["data"]["updated_at"]
        assert api.post(url, json=body).status_code == 200
        return bool(api.get("/datasets/small").json()["data"]["updated_at"] != before)

    path = "small/part-000/image-000000.jpg"

    assert not moved(f"/annotations/{path}", {"annotations": []})
    assert moved(f"/images/{path}/split", {"split": "val"})

    standin.switches.updated_at_bumps = frozenset({"annotations"})

    assert moved(f"/annotations/{path}", {"annotations": []})
    assert not moved(f"/images/{path}/split", {"split": None})


def test_someone_else_edits(api: httpx.Client, standin: StandIn) -> None:
    organization, small = standin.organization, standin.organization["small"]
    added = organization.add_image(small, "new.jpg", "/fresh")
    rows = api.get("/images/?dataset=small").json()["data"]

    assert (rows[0]["id"], len(rows)) == (added.id, 13)

    organization.rename_image(added, "newer.jpg")
    organization.update_image(added, status="review", tags=("x",))
    organization.set_annotations(added, [{"id": "1", "confidence": 0.5}])
    row = api.get("/images/?dataset=small&filename=newer.jpg").json()["data"][0]

    assert (row["status"], row["tags"], row["annotation_count"]) == ("review", ["x"], 1)

    organization.archive_image(added)

    assert api.get("/images/?dataset=small").json()["pagination"]["total"] == 12

    organization.remove_image(added)
    organization.rename_dataset(small, "renamed")

    assert api.get("/datasets/small").status_code == 404
    assert api.get("/datasets/renamed").json()["data"]["image_count"] == 12

    organization.remove_dataset(small)

    assert api.get("/datasets/").json()["data"] == []


def test_methods_that_are_not_there(api: httpx.Client) -> None:
    answer = api.put("/datasets/small")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PATCH")
    assert api.get("/datasets/by-name/small").status_code == 404


def test_the_log_knows_routes(api: httpx.Client, standin: StandIn) -> None:
    api.get("/datasets/small")
    api.get("/datasets/nope")
    entry = standin.log.requests(route="/datasets/{dataset}", status=404)[0]
    assert (entry.host, entry.path, entry.has_key) == ("api", f"{API}/datasets/nope", True)
    standin.log.clear()
    assert standin.log.count() == 0


@pytest.fixture
def nasty() -> StandIn:
    return StandIn(PRESETS["nasty"]())


def test_nasty_names_are_reachable(nasty: StandIn) -> None:
    with nasty, httpx.Client(headers={"X-API-Key": nasty.keys["viewer"]}) as client:
        base = nasty.api_url + API
        names = nasty.organization["names"]

        for image in names.images.values():
            assert client.get(f"{base}/images/{image.id}").status_code == 200

            path = quote(f"{image.directory_path}/{image.filename}".lstrip("/"))
            expected = (
                404
                if "\n" in image.filename or image.filename in ("metadata", "data-bundle")
                else 200
            )

            assert client.get(f"{base}/images/names/{path}").status_code == expected, image.filename

        embed = client.get(f"{base}/datasets/names?include_images=true").json()["data"]["images"]

        assert len(embed) == len(names.images)

        twins = {
            row["filename"]
            for row in embed
            if unicodedata.normalize("NFC", row["filename"]) == "café.jpg"
        }

        assert len(twins) == 2


def test_nasty_datasets_by_id_and_by_name(nasty: StandIn) -> None:
    with nasty, httpx.Client(headers={"X-API-Key": nasty.keys["viewer"]}) as client:
        base = nasty.api_url + API
        for dataset in nasty.organization.datasets.values():
            assert (
                client.get(f"{base}/datasets/{dataset.id}").json()["data"]["name"] == dataset.name
            )

        assert client.get(f"{base}/datasets/with%2Fslash").status_code == 404
        assert client.get(f"{base}/datasets/..").status_code == 404
        assert client.get(f"{base}/datasets/100%25").json()["data"]["name"] == "100%"

        odd = next(
            d
            for d in nasty.organization.datasets.values()
            if len(d.name) == 36 and d.name[8] == "-"
        )

        assert client.get(f"{base}/datasets/{odd.name}").status_code == 404


def test_nasty_rows_lie(nasty: StandIn) -> None:
    with nasty, httpx.Client(headers={"X-API-Key": nasty.keys["viewer"]}) as client:
        rows = client.get(f"{nasty.api_url}{API}/images/?dataset=rows").json()["data"]
        assert {row["directory_path"] for row in rows} == {"/", None}
        assert {"in_progress", "new"} <= {row["status"] for row in rows}
        sizes = client.get(f"{nasty.api_url}{API}/images/?dataset=sizes").json()["data"]
        assert {row["filename"]: row["file_size"] for row in sizes}["unknown.jpg"] == 0
