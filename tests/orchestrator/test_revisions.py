"""Old code against new, with the real command in a repository of its own: a paired comparison inside a visit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.test_end_to_end import rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAIN = "from orchestrator.cli.main import main; main()"

# plain: the code as it is. renamed: no other measurement. strict: its selftest job knows no seed.
MATRIX = """
[experiment]
id = "codes"
goal = "Which code is faster?"
[job]
kind = "selftest"
sleep_s = 0.02
seed = 3
[axes]
code = ["plain", "renamed", "strict", "."]
[baseline]
code = "plain"
[measure]
blocks = 3
iters = 3
warmup = 0
"""


class Clone:
    """A repository of this code with tags, and a working tree whose selftest takes three times as long."""

    def __init__(self, root: Path) -> None:
        self.root = root / "clone"
        self.state = root / "state"
        self.ledger = root / "ledger.db"
        self.matrix = root / "codes.toml"
        self.matrix.write_text(MATRIX)
        for name in ("core", "workers", "orchestrator", "infra"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self._git("init", "--quiet")
        self._commit("plain")
        self.edit("workers/sync.py", "Synchronous and deterministic", "Deterministic and synchronous")
        self._commit("renamed")
        self.edit(
            "core/job/selftest.py", '    seed: Seed = Field(0, description="tells otherwise equal jobs apart")\n', ""
        )
        self._commit("strict")
        self._git("rm", "-q", "workers/runner.py")
        self._commit("ancient")
        self._git("checkout", "--quiet", "renamed")
        self.edit("workers/selftest.py", "time.sleep(self.job.sleep_s)", "time.sleep(3 * self.job.sleep_s)")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} is no longer what this test edits"
        path.write_text(text.replace(old, new))

    def commit_of(self, tag: str) -> str:
        return self._git("rev-parse", tag)

    def move(self, tag: str, to: str) -> None:
        self._git("tag", "--force", tag, to)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "HILLCLIMB_STATE": str(self.state)}
        command = [sys.executable, "-c", MAIN, *words, "--ledger", str(self.ledger)]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def _commit(self, tag: str) -> None:
        self._git("add", "--all")
        self._git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--no-verify", "-m", tag)
        self._git("tag", tag)

    def _git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("revisions"))


def test_run_of_four_codes_compares_them_in_each_visit_and_tells_what_differs(clone: Clone) -> None:
    ran = clone.run("run", str(clone.matrix), "-o", "json")
    assert ran.returncode == 3, ran.stderr
    plain, strict = clone.commit_of("plain"), clone.commit_of("strict")
    assert f'code = "plain" is commit {plain[:12]}' in ran.stderr
    comparisons = {each["arm"]: each for each in json.loads(ran.stdout)["comparisons"]}
    assert {arm: each["verdict"] for arm, each in comparisons.items() if each["blocks"]} == {
        "code=renamed": "no-op",
        "code=.": "loss",
    }
    assert comparisons["code=."]["reference"] == "code=plain"
    # each code ran in its own process of every visit, and said which it was
    codes = rows(
        clone.ledger,
        """SELECT json_extract(j.spec, '$.code'), count(DISTINCT json_extract(e.facts, '$.code')), count(*)
           FROM run r JOIN job j ON j.id = r.job JOIN environment e ON e.id = r.environment GROUP BY 1""",
    )
    assert {code: counts for code, *counts in codes} == {
        plain: [1, 3],
        clone.commit_of("renamed"): [1, 3],
        "": [1, 3],
    }
    assert len(rows(clone.ledger, "SELECT DISTINCT json_extract(facts, '$.code') FROM environment")) == 3
    bundles = rows(clone.ledger, "SELECT revision, diff FROM bundle ORDER BY revision")
    assert bundles == sorted((clone.commit_of(tag), "") for tag in ("plain", "renamed", "strict"))
    # what does not know a field fails its own arm, once, and blames no host
    failed = rows(
        clone.ledger,
        "SELECT json_extract(spec, '$.code'), r.kind, r.reason FROM run r JOIN job j ON j.id = r.job "
        "WHERE r.kind IS NOT NULL",
    )
    assert [(code, kind) for code, kind, _ in failed] == [(strict, "user_error")]
    assert f"commit {strict[:12]} cannot run this job: " in failed[0][2]
    assert "seed" in failed[0][2]
    assert rows(clone.ledger, "SELECT DISTINCT state FROM visit") == [("finished",)]


def test_plan_after_a_name_has_moved_says_so_and_names_other_jobs(clone: Clone) -> None:
    assert clone.run("queue", str(clone.matrix)).returncode == 0
    before = clone.commit_of("plain")
    clone.move("plain", "renamed")
    planned = clone.run("plan", str(clone.matrix), "-o", "json")
    clone.move("plain", before)
    assert planned.returncode == 0, planned.stderr
    now = clone.commit_of("renamed")
    assert f"code = plain was commit {before[:12]} and is {now[:12]} now: other jobs" in planned.stderr
    assert 'code "plain" and "renamed" are the same commit' in planned.stderr
    assert {row["cell"] for row in json.loads(planned.stdout)} >= {"code=plain", "code=."}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("nowhere", 'code = "nowhere": '),
        ("ancient", "has no workers/runner.py: name a revision that holds hillclimb"),
        ("--upload-pack=x", 'code = "--upload-pack=x": '),
    ],
)
def test_run_of_a_revision_that_cannot_be_run_is_refused_before_anything_changes(
    clone: Clone, code: str, says: str
) -> None:
    ledger = clone.ledger.read_bytes() if clone.ledger.exists() else b""
    ran = clone.run("run", str(clone.matrix), "-a", f"code={code},.", "--set", f"baseline.code={code}")
    assert ran.returncode == 2
    assert says in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert (clone.ledger.read_bytes() if clone.ledger.exists() else b"") == ledger
