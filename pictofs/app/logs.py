"""Where a mount's process logs, and what a line looks like."""

from __future__ import annotations

import hashlib
import json
import logging
import logging.handlers
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from pictofs.config import MountSettings
from pictofs.errors import Invalid

LOG_BYTES = 10_000_000
LOG_FILES = 3
"""A log and two older ones."""

ACCESS = logging.getLogger("pictofs.fuse.access")


class TextFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's own fields where it has some, else those of a message."""
        fields: dict[str, Any] = getattr(record, "fields", None) or {
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, **fields})


class AccessFormatter(logging.Formatter):
    """A line of the access log for people: time, operation, errno, milliseconds, bytes, path."""

    def format(self, record: logging.LogRecord) -> str:
        """Paths are quoted as in JSON, so that no name can end a line."""
        fields: dict[str, Any] = getattr(record, "fields")  # noqa: B009 - an extra, which no class declares
        paths = [json.dumps(fields[name], ensure_ascii=False) for name in ("path", "to") if name in fields]
        return (
            f"{self.formatTime(record)} {fields['operation']} {fields['errno']} "
            f"{1000 * fields['seconds']:.3f}ms {fields['bytes']}B {' -> '.join(paths)}"
        )


def log_path(settings: MountSettings) -> Path:
    """Where the mount's own process logs."""
    digest = hashlib.blake2b(os.fsencode(settings.mountpoint), digest_size=6).hexdigest()
    return settings.log_file or settings.cache_dir / "log" / f"pictofs-{digest}.log"


def log_to_file(path: Path, settings: MountSettings) -> logging.handlers.RotatingFileHandler:
    """Log to `path`, readable by its owner only, rotated by size.

    Raises:
        Invalid: it can't be written.
    """
    handler = _rotating(path, "--log-file")
    _install(handler, settings)
    return handler


def log_to_terminal(settings: MountSettings) -> None:
    """Log to standard error."""
    _install(logging.StreamHandler(), settings)


def log_accesses(settings: MountSettings) -> None:
    """Send what `ACCESS` gets to the access log, which is kept like the log, and nowhere else.

    Raises:
        Invalid: it can't be written, or is the log.
    """
    assert settings.access_log is not None
    if settings.access_log == log_path(settings):
        raise Invalid(f"{settings.access_log} is the log: name another file by --access-log")
    handler = _rotating(settings.access_log, "--access-log")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else AccessFormatter())
    ACCESS.addHandler(handler)
    ACCESS.setLevel(logging.INFO)
    ACCESS.propagate = False


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Readable by its owner only, each new one too."""

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename,
            "a",
            encoding=self.encoding,
            errors=self.errors,
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )


def _rotating(path: Path, option: str) -> logging.handlers.RotatingFileHandler:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _PrivateFile(
            path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise Invalid(f"can't log to {path}: {error.strerror}; name another place by {option}") from None


def _install(handler: logging.Handler, settings: MountSettings) -> None:
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.getLogger().addHandler(handler)
    # Other libraries' chatter holds signed URLs: only what they warn of is let in.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("pictofs").setLevel(settings.log_level.upper())
