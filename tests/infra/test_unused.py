"""What nobody uses is removed, by however many at the same time."""

import os
import subprocess
import sys
from pathlib import Path

from infra.remote.unused import prune

# Enough for each of several to be in the middle of what another removes.
BUNDLES = 200
PRUNE = """
import sys
from pathlib import Path
from infra.remote.unused import prune
print("ready", flush=True)
sys.stdin.read()
print(len(prune(Path(sys.argv[1]), [], 0, 0.0)))
"""


def bundle(root: Path, name: str, *marks: str) -> None:
    (root / "bundles" / name / "core").mkdir(parents=True)
    for mark in marks or (f"{name}.python",):
        (root / "bundles" / mark).write_text("/usr/bin/python3")
        os.utime(root / "bundles" / mark, (1, 1))


def test_pruning_by_several_at_once_removes_everything_and_fails_for_none(tmp_path: Path) -> None:
    for number in range(BUNDLES):
        bundle(tmp_path, f"{number:03}")
    pruners = [
        subprocess.Popen(
            [sys.executable, "-c", PRUNE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for pruner in pruners:
        assert pruner.stdout is not None
        assert pruner.stdout.readline() == "ready\n"
    for pruner in pruners:
        assert pruner.stdin is not None
        pruner.stdin.close()
        pruner.stdin = None
    said = [pruner.communicate() for pruner in pruners]
    assert [errors for _, errors in said] == [""] * len(pruners)
    removed = [int(output) for output, _ in said]
    assert sum(removed) >= 2 * BUNDLES
    assert sum(1 for number in removed if number) > 1, "they were not at it at the same time"
    assert not list((tmp_path / "bundles").iterdir())


def test_pruning_counts_bundles_however_many_marks_they_have(tmp_path: Path) -> None:
    bundle(tmp_path, "a", "a.python", "a.0123.python")
    bundle(tmp_path, "b")
    bundle(tmp_path, "c")
    for place, when in (("c", 1), ("b", 2), ("a", 3)):
        for mark in (tmp_path / "bundles").glob(f"{place}.*"):
            os.utime(mark, (when, when))
    for place in "abc":
        os.utime(tmp_path / "bundles" / place, (1, 1))
    prune(tmp_path, [], 2, 3600.0)
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {
        "a",
        "a.python",
        "a.0123.python",
        "b",
        "b.python",
    }


def test_pruning_leaves_the_newest_tool_and_those_at_work(tmp_path: Path) -> None:
    for when, name in enumerate(("uv-old", "uv-used", "uv-new"), 1):
        (tmp_path / "bin" / name).mkdir(parents=True)
        os.utime(tmp_path / "bin" / name, (when, when))
    with subprocess.Popen(["sh", "-c", "read _", str(tmp_path / "bin" / "uv-used")], stdin=subprocess.PIPE):
        removed = prune(tmp_path, [], 0, 3600.0)
    assert removed == [str(tmp_path / "bin" / "uv-old")]
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"uv-used", "uv-new"}
