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
from pictofs.model.printable import printable

LOG_BYTES = 10_000_000
LOG_FILES = 3
"""A log and two older ones."""

log = logging.getLogger(__name__)

ACCESS = logging.getLogger("pictofs.fuse.access")


class TextFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """A line, whatever names are in the message."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """Lines below it, none of which can be taken for one of the log."""
        return "\n".join("  " + printable(line) for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's own fields if it has some, else those of a message."""
        fields: dict[str, Any] = getattr(record, "fields", None) or {
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)

        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, **fields}).replace("\x7f", "\\u007f")


class AccessFormatter(logging.Formatter):
    """A line of the access log for people: time, operation, errno, milliseconds, bytes, path."""

    def format(self, record: logging.LogRecord) -> str:
        """Paths are quoted as in JSON, so that no name can end a line."""
        # An extra, which no class declares.
        fields: dict[str, Any] = getattr(record, "fields")  # noqa: B009
        paths = [_quoted(fields[name]) for name in ("path", "to") if name in fields]
        return (
            f"{self.formatTime(record)} {fields['operation']} {fields['errno']} "
            f"{1000 * fields['seconds']:.3f}ms {fields['bytes']}B {' -> '.join(paths)}"
        )


def _quoted(text: str) -> str:
    """As in JSON, and readable if that is safe.

    JSON itself lets through what a terminal acts upon.
    """
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escaped(char) for char in quoted)


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def log_path(settings: MountSettings) -> Path:
    """Where the mount's own process logs."""
    return settings.log_file or usual_log_path(settings.cache_dir, settings.mountpoint)


def usual_log_path(cache_dir: Path, mountpoint: Path) -> Path:
    """Where the process of a mount in the background logs, unless it was told another place."""
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=6).hexdigest()
    return cache_dir / "log" / f"pictofs-{digest}.log"


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


def reopen() -> None:
    """Go on in files of the logs' names, made anew if they were moved away.

    Those that can't be made stay as they are.
    """
    for logger in (logging.getLogger(), ACCESS):
        for handler in logger.handlers:
            if isinstance(handler, _PrivateFile):
                handler.reopen()


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Readable by its owner only, each new one too."""

    def reopen(self) -> None:
        """Close the file that was moved away, and go on in a new one of its name."""
        assert self.lock is not None
        with self.lock:
            old = self.stream
            if old is None:
                return

            try:
                self.stream = self._open()
            except OSError as error:
                log.warning("%s can't be opened anew: %s", self.baseFilename, error.strerror)
                return

            # Standard error of a mount in the background is the log, too.
            if os.path.sameopenfile(old.fileno(), 2):
                os.dup2(self.stream.fileno(), 2)
            old.close()

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
            path,
            maxBytes=LOG_BYTES,
            backupCount=LOG_FILES - 1,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        raise Invalid(
            f"can't log to {path}: {error.strerror}", hint=f"name another place by {option}"
        ) from None


def _install(handler: logging.Handler, settings: MountSettings) -> None:
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.getLogger().addHandler(handler)

    # Other libraries' chatter holds signed URLs: only what they warn of is let in.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("pictofs").setLevel(settings.log_level.upper())
