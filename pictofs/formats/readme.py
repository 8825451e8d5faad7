"""The text of `formats/README.md`."""

from __future__ import annotations

_TEXT = """\
# The dataset, as trainers read it

Nothing here is a copy: the images are the dataset's own files, and the labels are made from its
annotations when they are read. Images without a split are in `train`. Each folder has a
`report.json`, which says what the format could not hold, how often and why.

| Folder | What for | What it loses |
|---|---|---|
| `yolo` | ultralytics, boxes | shapes of polygons, turned boxes (upright boxes around them), lines, \
keypoints, tags, attributes |
| `yolo-segment` | ultralytics, polygons; a box is a polygon of its corners | holes of polygons, \
lines, keypoints, tags, attributes |
| `yolo-obb` | ultralytics, turned boxes; of a polygon, the smallest one around it | shapes of \
polygons, lines, keypoints, tags, attributes |
| `yolo-pose` | ultralytics, keypoints; only if a class has a skeleton | boxes, polygons, lines, \
keypoints without a skeleton, tags, attributes |
| `coco` | torchvision, detectron2, RF-DETR, MMDetection | lines, tags |
| `voc` | Pascal VOC readers | fractions of pixels, shapes of polygons, turned boxes, lines, \
keypoints, tags, attributes |
| `imagefolder` | classification by tags | all but the tags; an image with several is in several \
folders |
| `huggingface` | Hugging Face `datasets` | shapes of polygons, turned boxes, lines, keypoints, \
attributes |

Labels are cut to the image; one that lies outside it is left out and counted.

## YOLO

    yolo detect train data=formats/yolo/data.yaml model=yolo11n.pt
    yolo segment train data=formats/yolo-segment/data.yaml model=yolo11n-seg.pt
    yolo obb train data=formats/yolo-obb/data.yaml model=yolo11n-obb.pt
    yolo pose train data=formats/yolo-pose/data.yaml model=yolo11n-pose.pt

Before it trains, ultralytics looks at every image and every label file, and keeps what it found in
`labels/*.cache`. A mount can't be written, so it warns "Cache directory ... is not writable, cache
not saved", goes on, and does the same at the next start. That reads each label file, the beginning
and the end of each JPEG, and each PNG whole; what is in pictofs' cache comes from there. If it takes
too long, download once and train on the copy, where the file can be written:

    pictofs download NAME DIR --format yolo

ultralytics writes a JPEG that does not end as it should anew. On a mount it can't, and leaves the
image out with the message "ignoring corrupt image/label". A split without images borrows those of
another one in `data.yaml`, and a comment says so: measures on it mean nothing.

## COCO

    torchvision.datasets.CocoDetection("formats/coco/images/train",
                                       "formats/coco/annotations/instances_train.json")

Ids stay the same from one build to the next. Category 1 is the dataset's first class. A box has its
corners as `segmentation`, so that code that wants masks does not fail; polygons with holes are
run-length codes. Keypoints of one instance are one annotation, if their class has a skeleton.

## Pascal VOC

    supervision.DetectionDataset.from_pascal_voc("formats/voc/JPEGImages", "formats/voc/Annotations")

Pixels count from 0, as in the platform's own files. The devkit of 2007 counts from 1, and so do
supervision and detectron2: there the left and the top edge are one pixel further out.

## ImageFolder

    torchvision.datasets.ImageFolder("formats/imagefolder/train", allow_empty=True)

`allow_empty` keeps a tag that has images in other splits only, so that classes have the same
numbers in all splits. Images without a tag are in `_untagged`.

## Hugging Face

    datasets.load_dataset("imagefolder", data_dir="formats/huggingface")

`objects.category` is the place in the dataset's classes, `objects.category_name` the class; `tags` is
a JSON array. `datasets` infers types from the labels and refuses splits whose types differ, so that
a split in which nothing is labelled has to be loaded by itself, with the types of another one:

    train = datasets.load_dataset("imagefolder", data_dir="formats/huggingface/train")["train"]
    datasets.load_dataset("imagefolder", data_dir="formats/huggingface/test",
                          features=train.features)
"""


def text() -> str:
    """Markdown: what each format is for, how to train on it, and what it loses."""
    return _TEXT
