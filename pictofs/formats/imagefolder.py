"""Folders of images by class: torchvision's ImageFolder, and whatever reads such folders.

The platform's labels of a whole image are its tags (API.md 7.2).
"""

from __future__ import annotations

from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample
from pictofs.model import names

UNTAGGED = "_untagged"
"""The folder of the images that have no tag."""


def folders(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The folders in which an image with these tags lies, each once, in the tags' order."""
    return tuple(dict.fromkeys(folder(tag) for tag in tags)) or (UNTAGGED,)


def folder(tag: str) -> str:
    """The folder of a tag: its name as N1 to N3 have it, or another one if that is UNTAGGED."""
    if tag == UNTAGGED:
        return names.tagged(tag, tag)
    return names.entry_name(tag, tag)


def count(sample: Sample, losses: Losses) -> None:
    """Count an image's listings, and what folders can't say about it."""
    listed = folders(sample.tags)
    losses.wrote(len(listed))
    if not sample.tags:
        losses.add("no_tag", sample.file_name)
    elif len(listed) > 1:
        losses.add("several_tags", sample.file_name)
