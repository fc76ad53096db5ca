import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uv

from core.code import code_hash
from core.errors import HillclimbError
from infra.bundle import Bundle, bundle_of, pack, resolve, unpack
from infra.tree import File
from tests.infra.checkout import FILES, checkout, commit, git, write
from tests.wheelhouse import Index, wheels

NEEDED = set(FILES) - {"README.md", ".gitignore"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path / "checkout")


def contents(bundle: Bundle) -> dict[str, bytes]:
    return {name: file.content for name, file in unpack(bundle.archive).items()}


def test_bundle_of_a_clean_tree_is_that_of_its_commit(root: Path) -> None:
    tree = bundle_of("", root)
    assert tree == bundle_of("HEAD", root)
    assert tree == bundle_of(".", root)
    assert (tree.revision, tree.diff) == (git(root, "rev-parse", "HEAD"), "")
    assert contents(tree) == {name: FILES[name].encode() for name in NEEDED}


def test_bundle_packed_elsewhere_at_another_time_is_the_same(root: Path, tmp_path: Path) -> None:
    git(root, "clone", "--quiet", str(root), str(tmp_path / "clone"))
    for path in (tmp_path / "clone").rglob("*.py"):
        path.chmod(0o640)
        os.utime(path, (0, 0))
    assert bundle_of("", tmp_path / "clone") == bundle_of("", root)


def test_bundle_id_is_of_the_tar_whatever_compressed_it(root: Path) -> None:
    bundle = bundle_of("", root)
    assert bundle.id == hashlib.sha256(gzip.decompress(bundle.archive)).hexdigest()


def test_canonical_form_stays_what_it_was() -> None:
    """Another one would put every host's code there again."""
    tar = pack({"core/ä.py": File(b"x"), "core/" + "a" * 120: File(b"y", executable=True)})
    assert hashlib.sha256(tar).hexdigest() == "69393c9b50ad00ef4fc6e0655b50dd3427b60de46962b2e67761c158cb513dd3"


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": lambda root: (root / "core/a.py").write_text("A = 2\n"),
    "staged": lambda root: (write(root, {"core/a.py": "A = 3\n"}), git(root, "add", "core/a.py")),
    "new": lambda root: write(root, {"core/new.py": ""}),
    "deleted": lambda root: (root / "core/a.py").unlink(),
    "emptied": lambda root: (root / "core/a.py").write_text(""),
    "folder deleted": lambda root: shutil.rmtree(root / "core/deep"),
    "folder now a file": lambda root: (shutil.rmtree(root / "core/deep"), write(root, {"core/deep": ""})),
    "executable": lambda root: (root / "core/a.py").chmod(0o755),
    "renamed": lambda root: (root / "core/a.py").rename(root / "core/z.py"),
    "constraints": lambda root: write(root, {"constraints.txt": "iniconfig==2.3.0\n"}),
}


def test_bundle_of_a_changed_tree_is_what_is_on_disk(root: Path) -> None:
    seen = {bundle_of("", root)}
    revision = git(root, "rev-parse", "HEAD")
    for name, change in CHANGES.items():
        change(root)
        now = bundle_of("", root)
        on_disk = [path for top in ("core", "workers", "orchestrator", "infra") for path in (root / top).rglob("*")]
        files = {path.relative_to(root).as_posix() for path in on_disk if path.is_file()}
        assert set(contents(now)) == files | {"pyproject.toml", "constraints.txt"}, name
        assert all(content == (root / file).read_bytes() for file, content in contents(now).items()), name
        assert now.revision == revision, name
        assert now.diff, name
        seen.add(now)
        git(root, "reset", "--quiet", "--hard")
        git(root, "clean", "--quiet", "-fd")
    assert len({bundle.id for bundle in seen}) == len(CHANGES) + 1
    assert len({bundle.diff for bundle in seen}) == len(CHANGES) + 1


@pytest.mark.parametrize("name", ["core/run.log", "README.md", "matrices/m.toml", "core.py"])
def test_bundle_ignores_what_no_host_needs(root: Path, name: str) -> None:
    before = bundle_of("", root)
    write(root, {name: "changed"})
    assert bundle_of("", root) == before


def test_bundle_keeps_names_git_would_quote(root: Path) -> None:
    names = {"core/ö ü.py", "core/two\nlines.py", "core/-x.py", 'core/"quoted".py', "core/\udcff.py"}
    write(root, dict.fromkeys(names, "here"))
    assert names <= set(contents(bundle_of("", root)))
    commit(root)
    at_commit, tree = bundle_of("HEAD", root), bundle_of("", root)
    assert names <= set(contents(at_commit))
    assert at_commit == tree


def test_bundle_keeps_the_executable_bit(root: Path) -> None:
    (root / "core/a.py").chmod(0o755)
    commit(root)
    files = unpack(bundle_of("HEAD", root).archive)
    assert {name for name, file in files.items() if file.executable} == {"core/a.py"}
    assert bundle_of("", root) == bundle_of("HEAD", root)


def test_bundle_holds_what_links_lead_to(root: Path) -> None:
    (root / "core/link.py").symlink_to("deep/../../core/second.py")
    (root / "core/second.py").symlink_to("deep/b.py")
    tree = bundle_of("", root)
    commit(root)
    assert contents(tree)["core/link.py"] == b"B = 1\n"
    assert bundle_of("HEAD", root).id == tree.id


@pytest.mark.parametrize("leads", ["/etc/passwd", "../../outside.py", "../README.md", "missing.py", "link.py", "deep"])
def test_bundle_of_a_link_that_leads_out_of_it_is_refused(root: Path, leads: str) -> None:
    (root / "core/link.py").symlink_to(leads)
    for _ in ("in the working tree", "in the commit"):
        with pytest.raises(HillclimbError, match=rf"core/link.py is a link to {leads}, no file of the bundle"):
            bundle_of("", root)
        commit(root)
    with pytest.raises(HillclimbError, match="put a copy in its place"):
        resolve("HEAD", root)


def test_bundle_leaves_a_repository_inside_out(root: Path) -> None:
    before = bundle_of("", root)
    checkout(root / "core" / "inner")
    assert bundle_of("", root) == before
    commit(root)
    assert bundle_of("", root).id == bundle_of("HEAD", root).id == before.id


def test_bundle_with_a_data_set_in_it_is_refused(root: Path) -> None:
    with (root / "workers/data.bin").open("wb") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(HillclimbError, match=r"workers/data.bin alone 40: move what is no code out"):
        bundle_of("", root)


def test_bundle_without_git_is_the_same_code(root: Path, tmp_path: Path) -> None:
    tree = bundle_of("", root)
    shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    # compiled by the interpreter, and in somebody else's repository
    write(tmp_path / "copy", {"core/__pycache__/a.cpython-311.pyc": "compiled"})
    git(tmp_path, "init", "--quiet")
    found = bundle_of("", tmp_path / "copy")
    assert found == tree._replace(revision="", diff="")
    with pytest.raises(HillclimbError, match="is no git checkout: run hillclimb from a clone"):
        resolve("main", tmp_path / "copy")


def test_bundle_inside_a_git_hook_is_of_its_own_repository(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bundle_of("", root)
    other = checkout(tmp_path / "other")
    write(other, {"core/other.py": ""})
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert bundle_of("", root) == expected
    assert bundle_of("HEAD", root).revision == expected.revision


def test_bundle_of_an_older_commit_is_as_it_was_committed(root: Path) -> None:
    before, first = bundle_of("", root), git(root, "rev-parse", "HEAD")
    write(root, {"core/a.py": "A = 2\n"})
    second = commit(root)
    write(root, {"core/a.py": "A = 3\n"})
    assert bundle_of("HEAD~1", root) == before
    assert contents(bundle_of("HEAD", root))["core/a.py"] == b"A = 2\n"
    assert (bundle_of(first, root).revision, bundle_of(second, root).revision) == (first, second)
    # HEAD moves, and what it meant before is not remembered
    commit(root)
    assert contents(bundle_of("HEAD", root))["core/a.py"] == b"A = 3\n"


def test_bundle_code_is_the_code_hash_of_its_tree(root: Path) -> None:
    assert bundle_of("", root).code == code_hash(root)
    write(root, {"core/a.py": "A = 2\n"})
    assert bundle_of("", root).code == code_hash(root) != bundle_of("HEAD", root).code


def test_bundle_code_names_the_compilers_that_its_constraints_pin(root: Path) -> None:
    before = bundle_of("", root)
    write(root, {"constraints.txt": "jax==0.0.1  # old\nlibtpu==0.0.2; sys_platform == 'linux'\n"})
    old = bundle_of("", root)
    assert old.code != before.code
    write(root, {"constraints.txt": "jax==0.0.1\nlibtpu==0.0.2\nnumpy==1\n"})
    assert bundle_of("", root).code == old.code


def test_revision_by_any_of_its_names_is_one_commit(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    git(root, "tag", "--annotate", "v1", "--message", "m")
    git(root, "branch", "feature/x")
    write(root, {"core/a.py": "A = 2\n"})
    commit(root)
    for name in (first, first[:10], "v1", "feature/x", "HEAD~1", "main^", "refs/heads/feature/x"):
        assert resolve(name, root) == first
    assert resolve("", root) == resolve(".", root) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "no commit of .* has this name: .* or fetch it"),
        ("f" * 40, "no commit"),
        ("^main", "no commit"),
        ("main~1..main", "no commit"),
        ("HEAD:core", "no commit"),
        ("HEAD^{tree}", "expected commit type"),
        ("--all", "write a branch, a tag or a commit"),
        ("-n", "write a branch, a tag or a commit"),
        ("main --output=x", "write a branch, a tag or a commit"),
        ("main\n", "write a branch, a tag or a commit"),
        ("main\0x", "write a branch, a tag or a commit"),
        (" ", "write a branch, a tag or a commit"),
    ],
)
def test_revision_that_names_no_commit_is_refused(root: Path, name: str, why: str) -> None:
    write(root, {"core/a.py": "A = 2\n"})
    commit(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(HillclimbError, match=f"^revision .*{why}"):
        resolve(name, root)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("name", ["workers/runner.py", "pyproject.toml"])
def test_revision_that_holds_no_hillclimb_is_refused(root: Path, name: str) -> None:
    (root / name).unlink()
    commit(root)
    with pytest.raises(HillclimbError, match=f"has no {name}: name a revision that holds hillclimb"):
        resolve("HEAD", root)


def test_revision_of_this_project_is_found_where_it_is_installed() -> None:
    """Whatever directory the tests are run from."""
    here = bundle_of("")
    assert {"core/code.py", "workers/runner.py", "constraints.txt"} <= set(contents(here))
    assert here.code


@pytest.mark.slow
def test_bundle_of_an_installed_wheel_is_that_of_its_commit(tmp_path: Path) -> None:
    """The wheel brings what the environments of hosts are made from."""
    source = tmp_path / "source"
    for name, file in unpack(bundle_of("").archive).items():
        write(source, {name: file.content.decode()})
    write(source, {"README.md": ""})
    git(source, "init", "--quiet")
    commit(source)
    built, installed = tmp_path / "built", tmp_path / "installed"
    with Index(wheels()) as index:
        for arguments in (
            ["build", "--quiet", "--wheel", "--default-index", index.url, "--out-dir", built, source],
            ["venv", "--quiet", "--python", sys.executable, installed],
            [
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--python",
                installed,
                built / "hillclimb-0.1.0-py3-none-any.whl",
            ],
        ):
            subprocess.run([uv.find_uv_bin(), *arguments], check=True)
    asked = (
        "from infra import bundle; found = bundle.bundle_of(''); print(bundle.__file__, found.id, repr(found.revision))"
    )
    ran = subprocess.run(
        [installed / "bin/python", "-I", "-c", asked], cwd="/", capture_output=True, text=True, check=True
    )
    file, found, revision = ran.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert (found, revision) == (bundle_of("HEAD", source).id, "''")
