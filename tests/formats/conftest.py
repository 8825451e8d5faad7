"""What the tests of the formats share."""

from __future__ import annotations

import pytest
from training import Trainer, usual_trainer


@pytest.fixture(scope="session")
def trainer() -> Trainer:
    """Real ultralytics, in an environment of its own. Only for tests that are marked long."""
    made = usual_trainer()
    made.make()
    return made
