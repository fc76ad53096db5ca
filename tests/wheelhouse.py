"""A package index for tests: the wheels that this project needs and is built with, for hosts that have no internet.

They are downloaded once with pip and kept between test runs, in $HILLCLIMB_WHEELHOUSE or ~/.cache/hillclimb-wheelhouse
(half a GB). The index says what each wheel needs without the wheel (PEP 658), so that uv fetches each of them once.
"""

import base64
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Found when this is imported: tests give themselves a HOME of their own.
DIRECTORY = Path(os.environ.get("HILLCLIMB_WHEELHOUSE") or Path.home() / ".cache" / "hillclimb-wheelhouse")


def wheels() -> Path:
    """The directory that holds them, filled when it is not."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    constraints = ROOT / "constraints.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted = "\n".join([sys.version, *requirements, constraints.read_text()])
    filled = DIRECTORY / f"filled-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    # test processes side by side: the first downloads, the others wait
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not filled.exists():
            download = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", f"--dest={DIRECTORY}"]
            subprocess.run([*download, "-c", str(constraints), *requirements], check=True)
            filled.touch()
    return DIRECTORY


class Index:
    """The index while it is served, as a context. `url` is what a pool file's `index` takes.

    `fetched` are the names of the wheels that were asked for, in order. `before(name)` is called before a wheel is
    sent, in a thread of its own: to hold it back. With `login`, as in USER:PASSWORD, nobody else is answered.
    """

    def __init__(
        self,
        directory: Path,
        address: str = "127.0.0.1",
        before: Callable[[str], object] = lambda _: None,
        login: str = "",
    ) -> None:
        self.directory = directory
        self.fetched: list[str] = []
        self.before = before
        self.authorization = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None
        self._server = ThreadingHTTPServer((address, 0), partial(_Handler, self))
        self.url = f"http://{address}:{self._server.server_port}/simple"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Index":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, index: Index, *request: object) -> None:
        self._index = index
        super().__init__(*request)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        project = re.fullmatch(r"/simple/([^/]+)/", self.path)
        wheel = re.fullmatch(r"/wheels/([^/]+\.whl)(\.metadata)?", self.path)
        if self._index.authorization and self.headers["Authorization"] != self._index.authorization:
            self.send_error(401)
        elif project:
            self._say("text/html", self._page(project[1]))
        elif wheel and (path := self._index.directory / wheel[1]).exists():
            if wheel[2]:
                self._say("text/plain", _metadata(path))
            else:
                self._index.fetched.append(wheel[1])
                self._index.before(wheel[1])
                self._say("application/zip", path.read_bytes())
        else:
            self.send_error(404)

    def _page(self, project: str) -> bytes:
        names = sorted(path.name for path in self._index.directory.glob("*.whl"))
        mine = [name for name in names if re.sub(r"[-_.]+", "-", name.split("-")[0]).lower() == project]
        links = "".join(f'<a href="/wheels/{name}" data-core-metadata="true">{name}</a>\n' for name in mine)
        return f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode()

    def _say(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests read `fetched`."""


def write_wheel(directory: Path, name: str, version: str, files: Mapping[str, str]) -> None:
    """A little wheel with these files. Its command `NAME` calls the function `main` of its module of that name."""
    about = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{about}/RECORD"])
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**content, f"{about}/RECORD": record}.items():
            wheel.writestr(path, text)


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return archive.read(name)
