"""A git checkout of a little project that has what a bundle needs."""

import subprocess
from pathlib import Path

FILES = {
    "core/a.py": "A = 1\n",
    "core/deep/b.py": "B = 1\n",
    "workers/runner.py": "",
    "orchestrator/c.py": "",
    "infra/d.py": "",
    "pyproject.toml": '[project]\nname = "little"\ndependencies = ["iniconfig>=2,<3"]\n',
    "constraints.txt": "iniconfig==2.3.1\n",
    "README.md": "what no host needs\n",
    ".gitignore": "*.log\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(root: Path, *arguments: str) -> str:
    """Runs git there, with nobody's configuration. Returns what it said."""
    settings = {"user.name": "N", "user.email": "n@example.org", "init.defaultBranch": "main"}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    configured = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    command = ["git", "-C", str(root), *configured, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def commit(root: Path) -> str:
    """Commits the tree as it is. Returns the commit's id."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "m")
    return git(root, "rev-parse", "HEAD")


def checkout(root: Path) -> Path:
    """A new repository of FILES, committed."""
    root.mkdir(parents=True)
    git(root, "init", "--quiet")
    commit(write(root, FILES))
    return root
