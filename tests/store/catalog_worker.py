"""A process that writes to a catalog until it is done or killed: `python catalog_worker.py PATH
SEED ROUNDS`.

Each round is a whole listing of a dataset of its own, and of one that all share. It prints a line
after each.

`python catalog_worker.py PATH hold NUMBER` has the catalog open and does what its standard input
says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from catalog_world import World, dataset, image

from pictofs.store.catalog.catalog import Catalog


def main(path: str, seed: str, rounds: str) -> None:
    if seed == "hold":
        hold(Catalog(Path(path)), int(rounds))
        return

    number = int(seed)
    world = World(Catalog(Path(path)))
    print("open", flush=True)

    for turn in range(int(rounds)):
        world.dataset = dataset(f"own-{number}", number)
        world.catalog.put_datasets(
            [dataset("shared", 99), *(dataset(f"own-{n}", n) for n in range(1, 6))], turn
        )
        rows = [image(number * 1000 + n, f"{n + turn}.jpg", f"/p{n % 3}") for n in range(40)]
        seen = world.table.begin_pass()
        world.table.put(world.key, world.dataset.id, rows, seen, moves=True)
        world.table.sweep(world.key, seen, directory=None, signature=str(turn), at=1.0)
        print(turn, flush=True)

    world.catalog.close()


def hold(catalog: Catalog, number: int) -> None:
    print(f"open {catalog.database.path}", flush=True)
    for line in sys.stdin:
        if line == "write\n":
            raw = {"id": f"d-{number}", "name": f"own-{number}"}
            catalog.put_changed(dataset(f"own-{number}", number, raw=raw), 2.0)
            print("written", flush=True)
        elif line == "count\n":
            print(catalog.counts()[0], flush=True)
        elif line == "begin\n":
            with catalog.database.write():
                print("begun", flush=True)
                sys.stdin.readline()

    catalog.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
