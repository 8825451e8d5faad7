"""Shares of a dataset, for processes that each fetch one without asking each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from pictofs.errors import Invalid

AUTO = "auto"
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Variables that name a process, from 0 on, and how many there are: torchrun's, then Slurm's."""


@dataclass(frozen=True)
class Shard:
    """The images whose ids fall to one of `count` processes."""

    index: int
    """From 0 to `count` - 1, as torch's ranks and Slurm's processes are numbered."""
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise Invalid(
                f"there is no shard {self.index} of {self.count}",
                hint=f"shards are numbered from 0 to N-1: 0/{max(1, self.count)} is the first one",
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, image_id: str) -> bool:
        """Whether an image falls to this shard.

        The id alone decides, so that machines agree whatever they have listed, and an annotation
        file goes where its image goes. Shards differ in size as chance has it: of 10,000 images
        over 64 shards, by some 12 of 156.
        """
        digest = blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


def parse(text: str, environ: Mapping[str, str]) -> Shard:
    """The shard that `I/N` means, or `auto` by a launcher's variables in `environ`.

    Raises:
        Invalid: it means none; the message says what to write.
    """
    if text == AUTO:
        return _launched(environ)

    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise Invalid(
            f"--shard: {text[:40]!r} won't do",
            hint=f"write I/N with I from 0 to N-1, such as 0/8, or {AUTO}",
        )
    return Shard(int(found[1]), int(found[2]))


def _launched(environ: Mapping[str, str]) -> Shard:
    for index, count in LAUNCHERS:
        values = (environ.get(index), environ.get(count))
        if values == (None, None):
            continue

        written = f"{values[0]}/{values[1]}"
        if re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", written) is None:
            raise Invalid(
                f"--shard auto: {index}={values[0] or ''} and {count}={values[1] or ''}"
                " name no process",
                hint="set both to numbers, or write --shard I/N",
            )
        return Shard(int(values[0] or ""), int(values[1] or ""))

    variables = " or ".join(f"{index} and {count}" for index, count in LAUNCHERS)
    raise Invalid(
        f"--shard auto: {variables} are not set",
        hint="start it by torchrun or srun, or write --shard I/N",
    )
