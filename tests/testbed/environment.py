"""A Python environment on a machine that has what the tests' own has, and can be given something else besides."""

import sys
import sysconfig
from pathlib import Path

from tests.testbed.accounts import ANN
from tests.testbed.machine import Machine


def make_environment(machine: Machine, folder: str, *, is_empty: bool = False) -> Path:
    """Its interpreter is FOLDER/bin/python. Returns where its own packages lie for this machine; they come first."""
    machine.run([str(Path(sys.base_prefix, "bin", "python3")), "-m", "venv", "--without-pip", folder], ANN)
    (packages,) = machine.outside(folder).glob("lib/python*/site-packages")
    if not is_empty:
        (packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return packages
