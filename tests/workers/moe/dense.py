"""A dense float64 block in NumPy, derivatives by hand: it shares no line with what it is compared with."""

import numpy as np

from workers.bench.inputs import Inputs


def dense(inputs: Inputs, kept: np.ndarray) -> dict[str, np.ndarray]:
    """y, loss = mean(y^2) and its gradients: every expert on every token, weighted by zero where not kept.

    kept: bool [tokens, topk].
    """
    weights = {name: np.asarray(array, np.float64) for name, array in inputs.weights.items()}
    dtype = inputs.arguments["x"].dtype
    x = np.asarray(inputs.arguments["x"], np.float64)
    gates = np.zeros((len(x), len(weights["w1"])))
    token, choice = np.nonzero(kept)
    # the step has router weights in its dtype
    rounded = inputs.routing.weights.astype(dtype).astype(np.float64)
    np.add.at(gates, (token, inputs.routing.ids[token, choice]), rounded[token, choice])
    parts = [(weights["w1"], weights["w3"], weights["w2"], gates, "d")]
    if "shared_w1" in weights:
        shared = [weights[f"shared_{name}"][None] for name in ("w1", "w3", "w2")]
        parts.append((*shared, np.ones((len(x), 1)), "dshared_"))

    hidden = [_forward(x, w1, w3) for w1, w3, *_ in parts]
    y = np.zeros_like(x)
    for (_, _, w2, gates, _), (_, _, _, a) in zip(parts, hidden, strict=True):
        y += np.einsum("te,tem,emh->th", gates, a, w2)
    dy = 2 * y / y.size
    found = {"y": y, "loss": np.mean(y**2), "dx": np.zeros_like(x)}
    for (w1, w3, w2, gates, name), (g, u, s, a) in zip(parts, hidden, strict=True):
        da = np.einsum("te,th,emh->tem", gates, dy, w2)
        dg, du = da * u * s * (1 + g * (1 - s)), da * g * s
        found["dx"] += np.einsum("tem,ehm->th", dg, w1) + np.einsum("tem,ehm->th", du, w3)
        dw1, dw3 = np.einsum("th,tem->ehm", x, dg), np.einsum("th,tem->ehm", x, du)
        gradients = {"w1": dw1, "w3": dw3, "w13": np.concatenate([dw1, dw3], axis=2)}
        gradients["w2"] = np.einsum("te,tem,th->emh", gates, a, dy)
        for matrix, gradient in gradients.items():
            found[name + matrix] = gradient[0] if name == "dshared_" else gradient
    return found


def _forward(x: np.ndarray, w1: np.ndarray, w3: np.ndarray) -> tuple[np.ndarray, ...]:
    g, u = np.einsum("th,ehm->tem", x, w1), np.einsum("th,ehm->tem", x, w3)
    s = 1 / (1 + np.exp(-g))
    return g, u, s, g * s * u


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over norm of `expected`; over 1 where that is zero."""
    off = np.linalg.norm(np.asarray(found, np.float64) - expected)
    return float(off / (np.linalg.norm(expected) or 1.0))
