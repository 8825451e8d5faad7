"""Organizations to start with.

`sample` is for a demonstration, `small` for quick tests and `bench` for measurements; `nasty` and
`absurd` have what a careless client trips over.
"""

from __future__ import annotations

from collections.abc import Callable

from standin import absurd, content, nasty
from standin.identity import uuid_for
from standin.organization import Organization
from standin.shapes import SCENE_CLASSES, hash_of, lowest_confidence, scene_count
from standin.spec import EPOCH, SPLITS, STATUSES, DatasetSpec, Spec

_CAMERAS = ("/cam1", "/cam2", "/night")


def _sample(organization: Organization) -> None:
    """Street signs with annotations that fit, an empty dataset, and tiles with odd names."""
    signs = organization.add_dataset(
        "street-signs",
        created_at=EPOCH,
        classes=SCENE_CLASSES,
        annotation_types=["bbox", "polygon", "polyline", "keypoint"],
        readme="# Street signs\n\nThree cameras, drawn for the demonstration.",
    )
    for number in range(240):
        directory = _CAMERAS[number % 3]
        seed = uuid_for(organization.seed, "scene", number)
        # A seed with `night` in it gives a dark scene.
        if directory == "/night":
            seed += "-night"

        draw = hash_of(seed[:36])
        organization.add_image(
            signs,
            f"frame-{number:04d}.jpg",
            directory,
            id=uuid_for(organization.seed, "street-signs", number),
            seed=seed,
            look=content.SCENE,
            size=60_000 + draw % 40_000,
            annotation_count=scene_count(seed),
            min_confidence=lowest_confidence(seed, 1),
            status=STATUSES[draw % 4],
            split=SPLITS[(draw >> 3) % len(SPLITS)],
            tags=("dark",) if directory == "/night" else (),
            created_at=EPOCH + 60 * number,
        )

    organization.add_dataset("empty", created_at=EPOCH + 1, classes=[])

    tiles = organization.add_dataset("aerial tiles", created_at=EPOCH + 2)
    for number in range(12):
        organization.add_image(
            tiles,
            f"tile {number // 4}-{number % 4}.png",
            f"/row {number // 4}",
            id=uuid_for(organization.seed, "tiles", number),
            size=40_000,
            content_type="image/png",
            annotation_count=4,
            created_at=EPOCH + number,
        )


PRESETS: dict[str, Callable[[], Spec]] = {
    "sample": lambda: Spec(finish=_sample),
    "nasty": lambda: Spec(finish=nasty.fill),
    "absurd": lambda: Spec(finish=absurd.fill),
    "small": lambda: Spec((DatasetSpec("small", images=12, size=20_000, directories=3),)),
    "bench": Spec.uniform,
}
