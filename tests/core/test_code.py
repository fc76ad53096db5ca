from pathlib import Path

import pytest

from core.code import code_hash


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("core/a.py", "core/deep/b.py", "workers/c.py", "orchestrator/d.py", "core/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_code_hash_of_equal_trees_is_equal(root: Path) -> None:
    assert code_hash(root) == code_hash(root)
    assert len(code_hash()) == 64


@pytest.mark.parametrize("name", ["core/a.py", "core/deep/b.py", "workers/c.py", "workers/new.py"])
def test_code_hash_follows_what_a_runner_executes(root: Path, name: str) -> None:
    before = code_hash(root)
    (root / name).write_text("changed")
    assert code_hash(root) != before


def test_code_hash_follows_a_renamed_file(root: Path) -> None:
    before = code_hash(root)
    (root / "core/a.py").rename(root / "core/z.py")
    assert code_hash(root) != before


@pytest.mark.parametrize("name", ["orchestrator/d.py", "core/notes.txt"])
def test_code_hash_ignores_what_no_runner_executes(root: Path, name: str) -> None:
    before = code_hash(root)
    (root / name).write_text("changed")
    assert code_hash(root) == before


def test_code_hash_follows_the_compilers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash(root)
    monkeypatch.setattr("core.code.metadata.version", lambda _: "999")
    assert code_hash(root) != before
