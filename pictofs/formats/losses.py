"""What a format can't hold of the platform's labels: counted, with a reason and a few examples."""

from __future__ import annotations

from typing import Any

import msgspec

EXAMPLES_MAX = 5
"""Files that are named for each reason."""

REASONS = {
    "malformed": "the annotation makes no sense: coordinates are missing or no numbers, "
    "the type is unknown, or there are too few points",
    "outside": "the label lies outside the image",
    "degenerate": "the label has no area within the image",
    "unsized": "neither the listing nor the image's first bytes tell its width and height, and so "
    "the image is left out",
    "unreadable": "the server does not give the image's annotation file, or not as JSON, and so the "
    "image is left out",
    "unknown_class": "the label's class is not in the format's list of classes",
    "polyline": "the format has no lines",
    "keypoint": "the format has no keypoints",
    "unplaced_keypoint": "the keypoint is a joint of a skeleton, and its instance has that joint "
    "already",
    "no_keypoints": "a pose needs keypoints, and boxes and polygons have none",
    "no_skeleton": "the keypoint belongs to no class with a skeleton",
    "hole": "the polygon has holes, which the format can't express: its outer ring is written",
    "outline": "the format has no polygons: the box around it is written",
    "rotation": "the format has no turned boxes: the upright box around it is written",
    "duplicate": "another label of the image has the same class and the same coordinates",
    "too_many": "the image has more poses than are written: together they have a million joints",
    "several_tags": "the image has several tags, and is listed under each of them",
    "no_tag": "the image has no tag, and is listed under `_untagged`",
}
"""The sentence for each machine word."""


class Losses(msgspec.Struct, kw_only=True):
    """What one format wrote and left out. It may be kept as JSON (msgspec) and merged."""

    images: int = 0
    """Images of which a label was made, empty ones included."""
    labels: int = 0
    """Labels that were written."""
    counts: dict[str, int] = {}
    """By the machine word of REASONS."""
    examples: dict[str, list[str]] = {}
    """File names, up to EXAMPLES_MAX for each reason."""

    def wrote(self, labels: int) -> None:
        """An image was written with so many labels."""
        self.images += 1
        self.labels += labels

    def add(self, reason: str, file_name: str, count: int = 1) -> None:
        """`count` labels of an image were left out or reduced; `reason` is a word of REASONS."""
        if count < 1:
            return
        self.counts[reason] = self.counts.get(reason, 0) + count
        self._show(reason, file_name)

    def merge(self, other: Losses) -> None:
        """Add what another part of the dataset wrote and left out."""
        self.images += other.images
        self.labels += other.labels
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
        for reason, files in other.examples.items():
            for file_name in files:
                self._show(reason, file_name)

    def report(self, format_name: str) -> dict[str, Any]:
        """The object of `formats/<format_name>/report.json`, reasons in the order of REASONS."""
        left_out = []
        for reason, why in REASONS.items():
            if reason in self.counts:
                left_out.append(
                    {
                        "reason": reason,
                        "why": why,
                        "count": self.counts[reason],
                        "examples": sorted(self.examples.get(reason, [])),
                    }
                )

        return {
            "format": format_name,
            "images": self.images,
            "labels": self.labels,
            "left_out": left_out,
        }

    def _show(self, reason: str, file_name: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES_MAX and file_name not in shown:
            shown.append(file_name)
