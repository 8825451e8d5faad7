# %% [markdown]
# # Look into an organization
#
# Cells of a notebook, for Jupyter (by jupytext) and editors that know `# %%`; it runs as a program,
# too. It needs a key, as `pictofs mount` does. Without an account: `python -m standin --preset
# sample` prints a URL and keys; set PICTOGRAPH_BASE_URL and PICTOGRAPH_API_KEY to them.

# %%
import json
from collections import Counter
from contextlib import ExitStack

import numpy
from PIL import Image

import pictofs

# %% [markdown]
# A `with` block would end with its cell. The mount is to last until the last cell.

# %%
notebook = ExitStack()
root = notebook.enter_context(pictofs.mounted(cache_size="20GB"))
datasets = sorted((root / "datasets").iterdir())
for dataset in datasets:
    files = [file for file in (dataset / "images").rglob("*") if file.is_file()]
    print(
        f"{dataset.name}: {len(files)} images, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
    )

# %% [markdown]
# Paths are all it takes: whatever opens files opens images and annotations. Here the first images
# of each dataset.

# %%
for dataset in datasets:
    for file in sorted((dataset / "images").rglob("*.*"))[:2]:
        with Image.open(file) as image:
            color = numpy.array(image.convert("RGB")).mean((0, 1)).round().astype(int)
        print(
            f"{file.relative_to(root / 'datasets')}: {image.width} x {image.height}, mean color {tuple(color.tolist())}"
        )

# %% [markdown]
# An annotation file costs one request of the hourly limit when it is first read; hence not all of
# them here.

# %%
classes: Counter[str] = Counter()
for dataset in datasets:
    for file in sorted((dataset / "annotations").rglob("*.json"))[:20]:
        classes.update(mark["name"] for mark in json.loads(file.read_text())["annotations"])
for name, count in classes.most_common():
    print(f"{count:5} {name}")

# %%
notebook.close()
