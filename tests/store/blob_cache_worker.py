"""A process that works on a blob cache until it is done or killed: `python blob_cache_worker.py TASK ROOT
LIMIT SEED`.

It prints one line after each step, so that whoever started it can follow, count and kill without
sleeping.
"""

from __future__ import annotations

import random
import sys
from hashlib import blake2b
from pathlib import Path

from pictofs.clock import SystemClock
from pictofs.config import FreeSpace
from pictofs.errors import DiskFull
from pictofs.store.blobs.cache import BlobCache, Busy


def content(key: str) -> bytes:
    """The one right content of `key`: up to 60 KB, known to every process."""
    digest = blake2b(key.encode()).digest()
    return digest * (1 + int.from_bytes(digest[:2], "big") % 900)


def say(word: str) -> None:
    print(word, flush=True)


def fetch(blob_cache: BlobCache, key: str) -> str:
    """Read `key` as a mount does: from the cache, or download it unless another does."""
    while True:
        blob = blob_cache.open(key)
        if blob is not None:
            with blob:
                return "hit" if blob.pread(0, 1 << 20) == content(key) else "WRONG"

        try:
            with blob_cache.open_partial(key, None) as draft:
                data = content(key)
                for start in range(0, len(data), 4096):
                    draft.write(start, data[start : start + 4096])
                draft.commit(len(data), None).close()
                return "download"
        except Busy:
            continue


def step(blob_cache: BlobCache, chance: random.Random) -> str:
    key = f"{chance.randrange(60):08x}"
    action = chance.random()

    try:
        if action < 0.4:
            blob_cache.put(key, content(key), None).close()
            return "put"

        if action < 0.5:
            return f"removed {blob_cache.remove(key)}"
        if action < 0.55:
            with blob_cache.open_partial(key, 20_000) as draft:
                draft.write(0, b"never published")
            return "abandoned"

        return fetch(blob_cache, key)
    except Busy:
        return "busy"
    except DiskFull:
        return "full"


def main(task: str, root: str, limit: str, seed: str) -> None:
    blob_cache = BlobCache(Path(root), limit=int(limit), reserve=FreeSpace(), clock=SystemClock())
    chance = random.Random(int(seed))
    if task == "hold":
        draft = blob_cache.open_partial("aa", 1000)
        draft.write(0, b"half")
        say("holding")
        sys.stdin.read()
    for number in range({"race": 40, "churn": 300, "forever": 10**9, "hold": 0}[task]):
        say(fetch(blob_cache, f"{number:08x}") if task == "race" else step(blob_cache, chance))


if __name__ == "__main__":
    main(*sys.argv[1:])
