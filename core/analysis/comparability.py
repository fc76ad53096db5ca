"""Whether two runs may be compared, and whether they are two at all.

Arms may differ in the axis under test and in nothing else. Process settings and another compiler change what becomes of
one and the same program, so runs that differ in these are two measurements even when their fingerprints are equal.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from core.analysis.pairs import Pair
from core.code import COMPILERS
from core.ledger.rows import Cell, Series

# How many devices a host shows is no difference between arms: how many an arm used is, and times are then per device.
_NOT_A_DIFFERENCE = frozenset({"device_count"})

Environments = Mapping[str, Mapping[str, str]]


def same_measurement(
    pairs: list[Pair], env: Mapping[str, str], reference_env: Mapping[str, str], environments: Environments
) -> bool:
    """Whether arm and reference are one program on the same inputs, by the same compiler under the same process
    settings, in every pair."""
    return (
        bool(pairs)
        and env == reference_env
        and all(
            p.arm.program is not None
            and p.arm.inputs is not None
            and (p.arm.program, p.arm.inputs) == (p.reference.program, p.reference.inputs)
            and _differences(p, environments).isdisjoint(COMPILERS)
            for p in pairs
        )
    )


def settings_difference(env: Mapping[str, str], reference_env: Mapping[str, str], tested: frozenset[str]) -> str | None:
    """Why process settings forbid the comparison, or None. `tested`: the settings that the axis under test is about."""
    names = {n for n in {*env, *reference_env} if env.get(n) != reference_env.get(n)} - tested
    if not names:
        return None
    parts = [f"{n} is {env.get(n, 'unset')!r} against {reference_env.get(n, 'unset')!r}" for n in sorted(names)]
    return f"process settings differ that are not compared: {'; '.join(parts)}: give both arms the same env"


def environment_difference(pairs: list[Pair], environments: Environments, tests_code: bool) -> str | None:
    """What was found to differ between arm and reference in some pair, or None. `tests_code`: the axis under test is
    the code, and with it the compilers that each revision asks for: what the code hash is made of."""
    meant = _NOT_A_DIFFERENCE.union(("code", *COMPILERS) if tests_code else ())
    for pair in pairs:
        arm, reference = _facts(pair, environments)
        if keys := _differences(pair, environments) - meant:
            parts = [f"{k} is {arm.get(k, 'unknown')!r} against {reference.get(k, 'unknown')!r}" for k in sorted(keys)]
            return f"environments differ in visit {pair.visit.id}: {'; '.join(parts)}: measure both arms in one"
    return None


def tested_axes(cell: Cell, reference: Cell) -> tuple[str, ...]:
    """The axes in which a cell and the one it is compared with differ."""
    return tuple(a for a in cell.coordinates if cell.coordinates[a] != reference.coordinates.get(a))


def _facts(pair: Pair, environments: Environments) -> tuple[Mapping[str, str], Mapping[str, str]]:
    arm, reference = (environments.get(run.environment or "", {}) for run in (pair.arm, pair.reference))
    return arm, reference


def _differences(pair: Pair, environments: Environments) -> frozenset[str]:
    """The names of the facts that are not the same."""
    arm, reference = _facts(pair, environments)
    return frozenset(name for name in {*arm, *reference} if arm.get(name) != reference.get(name))


def tested_settings(axes: tuple[str, ...], series: Series) -> frozenset[str]:
    """The process settings that these axes are about, by themselves or through a bundle."""
    bundles: Mapping[str, Any] = tomllib.loads(series.text).get("bundles", {})
    names = {axis.removeprefix("env.") for axis in axes if axis.startswith("env.")}
    for axis in axes:
        for fields in bundles.get(axis, {}).values():
            names |= {key.removeprefix("env.") for key in fields if key.startswith("env.")} | set(fields.get("env", {}))
    return frozenset(names)
