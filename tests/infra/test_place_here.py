import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.code import code_hash
from infra.bundle import bundle_of
from infra.pool import PoolError
from infra.sync import place_here
from tests.infra.checkout import checkout


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return checkout(tmp_path / "code")


def test_place_here_makes_what_the_runner_looks_for(code: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "state" / "bundles"
    bundle = bundle_of("", code)
    with ThreadPoolExecutor(4) as hosts:
        list(hosts.map(lambda _: place_here(bundle, bundles), range(4)))
    assert {path.name for path in bundles.iterdir()} == {bundle.id, f"{bundle.id}.python"}
    assert (bundles / f"{bundle.id}.python").read_text() == sys.executable
    assert code_hash(bundles / bundle.id) == code_hash(code)


def test_place_here_of_what_is_there_changes_nothing_but_when_it_was_used(code: Path, tmp_path: Path) -> None:
    bundle = bundle_of("", code)
    place_here(bundle, tmp_path / "bundles")
    mark = tmp_path / "bundles" / f"{bundle.id}.python"
    os.utime(mark, (1, 1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "bundles").rglob("*")}
    place_here(bundle, tmp_path / "bundles")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "bundles").rglob("*")}
    assert [path for path in before if after[path] != before[path]] == [mark]
    assert after.keys() == before.keys()


def test_place_here_where_nothing_can_be_written_is_refused(code: Path, tmp_path: Path) -> None:
    (tmp_path / "bundles").write_text("a file")
    with pytest.raises(PoolError, match=r"cannot be put into .*bundles .*: make room there, or set HILLCLIMB_STATE"):
        place_here(bundle_of("", code), tmp_path / "bundles")
