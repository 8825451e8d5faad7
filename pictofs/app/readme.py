"""`.pictofs/README.md`: what lies where in a mount, for who has nothing but the mount."""

from __future__ import annotations

from pictofs.model.formats import FORMATS, YOLO
from pictofs.model.selection import CHOICES

README = f"""\
# What lies where

    datasets/NAME/images/...             images, in their directories
    datasets/NAME/annotations/....json   the annotation file of each image
    datasets/NAME/dataset.json           the API's object of the dataset
    datasets/NAME/README.md              its readme, if it has one
    datasets/NAME/by-status/STATUS/...   the same files by status
    datasets/NAME/by-split/SPLIT/...     the same files by split
    datasets/NAME/formats/FORMAT/...     images and labels as trainers read them
    datasets/NAME/exports/EXPORT/...     what the archive of a finished export holds
    by-id/ID                             a link to the dataset or image of an id
    by-id/ID.json                        a link to its annotation file
    .pictofs/status.json                 what the mount has done and is at
    .pictofs/metrics                     the same for Prometheus

`by-status`, `by-split`, `formats` and `exports` are there, but
`ls datasets/NAME` does not show them: a copy of a dataset holds each file once.
Name them, and go on as usual:

    ls datasets/NAME/by-split/train/images
    cat datasets/NAME/formats/README.md

FORMAT is one of {", ".join(YOLO)},
{", ".join(FORMATS[len(YOLO) :])}; by-status/STATUS has them, too.
STATUS is one of {", ".join(CHOICES["status"])};
SPLIT one of {", ".join(CHOICES["split"])}.

What the API says of a dataset or an image are extended attributes:
`getfattr -d PATH`.

Files show the mode that a copy of them gets, so that it can be changed and
deleted. Here nothing can, but for datasets in a mount made with --writable.
""".encode()
