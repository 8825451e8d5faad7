"""Annotations as trainers read them: YOLO, COCO, Pascal VOC, ImageFolder, Hugging Face.

Pure functions, one file per format: annotation objects go in, text or rows come out. There is no
I/O, no clock and no global state. An annotation file becomes a `Sample` (sample.py), the dataset's
class list `Classes` (classes.py), and what a format can't hold is counted in `Losses` (losses.py).

All coordinates are pixels of the upright image, from the top left corner, as the API sends them.
"""
