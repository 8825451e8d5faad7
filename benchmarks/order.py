"""What it brings to tell the order: shuffled epochs with a cache that holds 40 % of the dataset."""

from __future__ import annotations

import statistics

from benchmarks.rig import Row, mount, python, server

RUNS = 3
FILES, SIZE = 600, 102_400
HELD = 0.4
LATENCY = 0.02
BLOB = 106_496
"""Bytes that an image takes in the cache: with its footer, in whole blocks."""

EPOCHS = """
import glob, json, sys, time, torch
from pictofs.torch import PrefetchingSampler
top, told, work = sys.argv[1], sys.argv[2] == "told", float(sys.argv[3])
class Files(torch.utils.data.Dataset):
    def __init__(self): self.paths = sorted(glob.glob(top + "/datasets/*/images/**/*.jpg", recursive=True))
    def __len__(self): return len(self.paths)
    def __getitem__(self, at):
        with open(self.paths[at], "rb") as file: data = file.read()
        time.sleep(work)
        return len(data)
def counts():
    with open(top + "/.pictofs/status.json") as file: status = json.load(file)
    return status["cache"]["hits"], status["cache"]["misses"], status["requests"]["storage"]
files = Files()
sampler = torch.utils.data.RandomSampler(files, generator=torch.Generator().manual_seed(7))
if told: sampler = PrefetchingSampler(sampler, files.paths)
loader = torch.utils.data.DataLoader(files, batch_size=8, num_workers=4, sampler=sampler, persistent_workers=True)
for epoch in range(2):
    before, start = counts(), time.perf_counter()
    total = sum(int(batch.sum()) for batch in loader)
    seconds, after = time.perf_counter() - start, counts()
hits, misses, downloads = (b - a for a, b in zip(before, after))
print(json.dumps({"seconds": seconds, "hits": hits / (hits + misses), "downloads": downloads, "bytes": total}))
"""
"""The second of two shuffled epochs of a DataLoader with four workers, which run already; the cache
is full."""


def told_order() -> list[Row]:
    """An epoch with the order told beside one with what `auto` can guess."""
    return [_epochs(0.0, "read only"), _epochs(0.01, "10 ms of work each")]


def _epochs(work: float, words: str) -> Row:
    """Medians. `work`: seconds that a worker spends on each image, besides reading it."""
    seconds: dict[str, float] = {}
    hits: dict[str, float] = {}

    with server("--images", str(FILES), "--size", str(SIZE), "--latency", str(LATENCY)) as s:
        for way in ("auto", "told"):
            runs = []
            for _ in range(RUNS):
                with mount(s, None, "--cache-size", str(int(HELD * FILES) * BLOB)) as m:
                    runs.append(python(EPOCHS, str(m.path), way, str(work), env=s.environment))
                    assert runs[-1]["bytes"] == FILES * SIZE

            seconds[way] = statistics.median(run["seconds"] for run in runs)
            hits[way] = statistics.median(run["hits"] for run in runs)

    ratio = seconds["told"] / seconds["auto"]
    return Row(
        f"order told, cache of {HELD:.0%}, {FILES} x 100 KiB, 4 workers, 20 ms, {words}",
        f"{seconds['told']:.2f} s, {hits['told']:.0%} hits",
        f"auto {seconds['auto']:.2f} s, {hits['auto']:.0%} hits",
        ratio,
        "< 1",
        ratio < 1,
    )
