"""Routes of the organization as a whole: its row, notifications, jobs and webhooks."""

from __future__ import annotations

from standin.clock import iso
from standin.records import Job, Notification
from standin.routes.registry import on, page
from standin.routing import Answer, Call, data, not_found
from standin.spec import EPOCH
from standin.wire import job_row, notification_row, slug

_ACTIVE = ("queued", "running")
_FINISHED = ("completed", "failed", "cancelled")
_EVENTS = (
    "workflow_run.completed",
    "workflow_run.failed",
    "workflow_stream.events",
    "workflow_stream.ended",
)


@on("GET", "/organizations/me")
def me(call: Call) -> Answer:
    """`GET /organizations/me`: bare, under the key `organization`."""
    organization = call.organization

    row = {
        "id": organization.id,
        "name": organization.name,
        "slug": slug(organization.name),
        "description": None,
        "is_public": False,
        "subscription_tier": "pro",
        "credits_remaining": 1_000_000,
        "credits_monthly_allowance": 1_000_000,
        "credits_reset_at": None,
        "max_users": 10,
        "max_images": 1_000_000,
        "max_storage_bytes": 10**12,
        "member_count": 1,
        "pending_invite_count": 0,
        "created_at": iso(EPOCH),
        "updated_at": iso(EPOCH),
    }
    return Answer({"organization": row})


@on("GET", "/notifications", query="unread_only limit offset")
def notifications(call: Call) -> Answer:
    """`GET /notifications`: bare, newest first."""
    limit = call.number("limit", 50, 100, 1)
    offset = call.number("offset", 0)
    notes = call.organization.notifications
    found = [note for note in reversed(notes) if not (call.flag("unread_only") and note.read)]
    rows = [notification_row(note, call.organization) for note in found[offset : offset + limit]]
    return Answer({"notifications": rows, "unread_count": _unread(notes)})


@on("GET", "/notifications/unread-count")
def unread_count(call: Call) -> Answer:
    """`GET /notifications/unread-count`."""
    return Answer({"unread_count": _unread(call.organization.notifications)})


def _unread(notes: list[Notification]) -> int:
    return sum(not note.read for note in notes)


@on("POST", "/notifications/read-all")
def read_all(call: Call) -> Answer:
    """`POST /notifications/read-all`."""
    count = _unread(call.organization.notifications)
    for note in call.organization.notifications:
        note.read = True

    return Answer({"success": True, "marked_count": count})


def _note(call: Call) -> Notification:
    wanted = call.params["notification_id"]
    found = next((note for note in call.organization.notifications if note.id == wanted), None)
    if found is None:
        raise not_found("Notification not found")

    return found


@on("POST", "/notifications/{notification_id}/read")
def read(call: Call) -> Answer:
    """`POST /notifications/{id}/read`."""
    _note(call).read = True
    return Answer({"success": True})


@on("DELETE", "/notifications/{notification_id}")
def delete(call: Call) -> Answer:
    """`DELETE /notifications/{id}`."""
    call.organization.notifications.remove(_note(call))
    return Answer({"success": True})


@on("GET", "/jobs", query="status type limit offset")
def jobs(call: Call) -> Answer:
    """`GET /jobs`: newest first; only those that are under way, unless `status` is given."""
    limit = call.number("limit", 50, 100, 1)
    offset = call.number("offset", 0)
    asked = call.choice("status", ("active", "finished", "all", *_ACTIVE, *_FINISHED), "active")
    kind = call.query.get("type")

    found: list[Job] = []
    for job in reversed(call.organization.jobs):
        if _matches(job, asked) and kind in (None, job.type):
            found.append(job)

    return page([job_row(job) for job in found[offset : offset + limit]], len(found), limit, offset)


def _matches(job: Job, asked: str) -> bool:
    groups = {"all": (*_ACTIVE, *_FINISHED), "active": _ACTIVE, "finished": _FINISHED}
    return job.status in groups.get(asked, (asked,))


@on("GET", "/jobs/{job_id}")
def job(call: Call) -> Answer:
    """`GET /jobs/{id}`."""
    wanted = call.params["job_id"]
    found = next((each for each in call.organization.jobs if each.id == wanted), None)
    if found is None:
        raise not_found("Job not found")

    return data(job_row(found))


@on("GET", "/webhooks/event-types")
def event_types(call: Call) -> Answer:
    """`GET /webhooks/event-types`: none of them is about datasets."""
    del call
    return Answer({"event_types": _EVENTS})


@on("GET", "/webhooks/endpoints")
def endpoints(call: Call) -> Answer:
    """`GET /webhooks/endpoints`: the stand-in has none."""
    del call
    return Answer({"endpoints": []})
