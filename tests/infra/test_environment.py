from pathlib import Path

import pytest

from core.errors import HillclimbError
from infra.bundle import Bundle, bundle_of
from infra.environment import MINOR, Environment, environment_of
from tests.infra.checkout import checkout, commit, write

PROJECT = '[project]\nname = "little"\ndependencies = {0}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path / "code")


def environment(root: Path, arch: str = "x86_64", python: str = MINOR, **files: str) -> Environment:
    write(root, {name.replace("_", "."): text for name, text in files.items()})
    return environment_of(bundle_of("", root), arch, python)


def test_environment_is_what_the_bundles_own_project_says(root: Path) -> None:
    old = bundle_of("HEAD", root)
    write(root, {"pyproject.toml": PROJECT.format('["jax>=1", "ray"]'), "constraints.txt": "jax==1.2\n"})
    found = environment_of(bundle_of("", root), "x86_64")
    assert (found.python, found.requirements, found.constraints) == (MINOR, ("jax>=1", "ray"), "jax==1.2\n")
    assert environment_of(old, "x86_64").requirements == ("iniconfig>=2,<3",)


def test_lock_id_follows_what_an_environment_is_made_from(root: Path) -> None:
    ids = {
        environment(root).id,
        environment(root, arch="aarch64").id,
        environment(root, python="3.99").id,
        environment(root, constraints_txt="iniconfig==2.0.0\n").id,
        environment(root, pyproject_toml=PROJECT.format('["iniconfig"]')).id,
    }
    assert len(ids) == 5
    assert all(len(lock) == 64 for lock in ids)


def test_lock_id_follows_nothing_else(root: Path) -> None:
    before = environment(root, pyproject_toml=PROJECT.format('["a", "b"]'))
    write(root, {"core/a.py": "A = 2\n"})
    assert environment(root, pyproject_toml=PROJECT.format('["b", "a"]\n[tool.ruff]\nline-length = 3')) == before


def test_environment_without_constraints_has_none(root: Path) -> None:
    (root / "constraints.txt").unlink()
    assert environment(root).constraints == ""


@pytest.mark.parametrize("text", ["[project", '[project]\nname = "little"\n', "", "project = 1\n"])
def test_environment_of_a_project_that_names_no_dependencies_is_refused(root: Path, text: str) -> None:
    write(root, {"pyproject.toml": text})
    with pytest.raises(
        HillclimbError, match=r"^pyproject.toml of the working tree names no dependencies .*: correct it"
    ):
        environment_of(bundle_of("", root), "x86_64")
    revision = commit(root)
    with pytest.raises(HillclimbError, match=rf"^pyproject.toml of commit {revision[:12]} names no dependencies"):
        environment_of(bundle_of("HEAD", root), "x86_64")


def test_environment_of_this_project_holds_what_a_host_imports() -> None:
    bundle: Bundle = bundle_of("")
    found = environment_of(bundle, "x86_64")
    names = {requirement.partition("[")[0].partition(">")[0].partition("=")[0] for requirement in found.requirements}
    assert {"jax", "jaxlib", "libtpu", "numpy", "pydantic", "ray"} <= names
    assert "hillclimb" not in names
    assert "jax==0.10.2\n" in found.constraints
