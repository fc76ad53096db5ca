"""A covering array: few cases in which every two values of different axes meet."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Case = dict[str, Any]


def pairs_covered(
    axes: Mapping[str, Sequence[Any]], valid: Callable[[Case], bool]
) -> tuple[list[Case], set[frozenset[tuple[str, Any]]]]:
    """Cases in which pairs of values meet, greedy and always the same; and the pairs that no case was found for."""
    names = list(axes)
    wanted = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(axes[a]))
        for j in range(len(axes[b]))
    }
    cases: list[Case] = []
    never: set[frozenset[tuple[str, Any]]] = set()
    while wanted:
        pair = min(wanted)
        chosen = _completed(axes, dict(pair), wanted, valid)
        if chosen is None:
            wanted.discard(pair)
            never.add(frozenset((name, axes[name][index]) for name, index in pair))
            continue
        wanted -= set(itertools.combinations(chosen.items(), 2))
        cases.append({name: axes[name][index] for name, index in chosen.items()})
    return cases, never


def _completed(
    axes: Mapping[str, Sequence[Any]], fixed: dict[str, int], wanted: set[Any], valid: Callable[[Case], bool]
) -> dict[str, int] | None:
    """A valid choice of all axes that keeps `fixed`, each further axis at the value that meets most new pairs."""

    def complete(chosen: dict[str, int], rest: list[str]) -> dict[str, int] | None:
        if not rest:
            ordered = {name: chosen[name] for name in axes}
            return ordered if valid({name: axes[name][index] for name, index in ordered.items()}) else None
        name, *others = rest

        def gain(index: int) -> int:
            met = (((name, index), other) for other in chosen.items())
            return sum(pair in wanted or pair[::-1] in wanted for pair in met)

        for index in sorted(range(len(axes[name])), key=lambda index: (-gain(index), index)):
            if not valid({**{n: axes[n][i] for n, i in chosen.items()}, name: axes[name][index]}):
                continue
            if found := complete({**chosen, name: index}, others):
                return found
        return None

    return complete(fixed, [name for name in axes if name not in fixed])
