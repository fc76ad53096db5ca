"""Two machines, a pool of them brought up as a person does it, and trials on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.trial import Trial
from tests.testbed.testbed import Person, Testbed


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Left as it is found: linked, calm, sshd at work."""
    with Testbed(tmp_path_factory.mktemp("bed"), "one", "two") as bed:
        yield bed


@pytest.fixture(scope="session")
def pool(bed: Testbed) -> Path:
    """Both machines, Ray up on them, its head on `one`."""
    path = bed.pool_file("pool")
    up = bed.ann.says("pool", "up", "--pool", path)
    assert up.returncode == 0, up.stderr
    return path


@pytest.fixture
def trial(bed: Testbed, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Trial]]:
    """Makes trials, of ann's on the pool unless told otherwise; ends what they left, also on the machines."""
    made: list[Trial] = []

    def make(pool: Path | None = None, person: Person | None = None, **shape: object) -> Trial:
        chosen = pool or request.getfixturevalue("pool")
        folder = tmp_path / str(len(made))
        made.append(Trial(folder, (person or bed.ann).environment, chosen, lives=bed.lives, **shape))
        return made[-1]

    yield make
    # an actor that was let go serves the next trial, too
    if any(one.was_cut_short for one in made):
        for one in made:
            one.end()
        bed.free()
