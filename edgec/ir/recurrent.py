"""LSTM, GRU and RNN in numpy, with all of their options."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Node

Activation = Callable[[Array], Array]
State = tuple[Array, ...]


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


_PLAIN: Mapping[str, Activation] = {
    "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "sigmoid": _sigmoid, "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(x, 0),
}
_SCALED: Mapping[str, tuple[float, float | None, Callable[[Array, float, float], Array]]] = {
    "affine": (1.0, 0.0, lambda x, a, b: a * x + b), "scaledtanh": (1.0, 1.0, lambda x, a, b: a * np.tanh(b * x)),
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "leakyrelu": (0.01, None, lambda x, a, _: np.where(x < 0, a * x, x)),
    "thresholdedrelu": (1.0, None, lambda x, a, _: np.where(x > a, x, 0)),
    "elu": (1.0, None, lambda x, a, _: np.where(x < 0, a * np.expm1(x), x)),
}
"""Activations with a default alpha, and a default beta where they take one."""
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def recurrent(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The results Y, Y_h and, of an LSTM, Y_c."""
    operands: list[Any] = list(inputs)
    operands += [None] * (8 - len(operands))
    x, w, r, b, lengths, hidden_state, cell_state, peepholes = operands
    given = [hidden_state, cell_state] if node.op == "LSTM" else [hidden_state]
    batch_first, direction = node.attrs.get("layout", 0), node.attrs.get("direction", "forward")
    x = x.swapaxes(0, 1) if batch_first else x
    steps, batch, _ = x.shape
    hidden, sides = r.shape[2], w.shape[0]
    lengths = np.full(batch, steps) if lengths is None else lengths
    states = [np.zeros((sides, batch, hidden), x.dtype) if s is None else s.swapaxes(0, 1) if batch_first else s for s in given]
    activations = list(_activations(node))
    each = len(activations) // sides
    whole, final = np.zeros((steps, sides, batch, hidden), x.dtype), [np.zeros_like(s) for s in states]
    for side in range(sides):
        bias = np.zeros(2 * w.shape[1], x.dtype) if b is None else b[side]
        cell = _CELLS[node.op](node, w[side], r[side], bias, None if peepholes is None else peepholes[side],
                               activations[side * each:(side + 1) * each])
        backwards = direction == "reverse" or side == 1
        state = tuple(s[side] for s in states)
        for step in range(steps):
            at = np.where(step < lengths, lengths - 1 - step if backwards else step, 0)
            running = (step < lengths)[:, None]
            new = cell(x[at, np.arange(batch)], state)
            state = tuple(np.where(running, n, s).astype(x.dtype) for n, s in zip(new, state, strict=True))
            for i in np.flatnonzero(running[:, 0]):
                whole[at[i], side, i] = state[0][i]
        for kept, last in zip(final, state, strict=True):
            kept[side] = last
    if batch_first:
        return [whole.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in final)]
    return [whole, *final]


def _activations(node: Node) -> Iterator[Activation]:
    """The functions of all directions in order; each takes its alpha and beta from the lists when it has such."""
    sides = 2 if node.attrs.get("direction", "forward") == "bidirectional" else 1
    alphas, betas = iter(node.attrs.get("activation_alpha", ())), iter(node.attrs.get("activation_beta", ()))
    for name in node.attrs.get("activations") or _DEFAULTS[node.op] * sides:
        if name.lower() in _PLAIN:
            yield _PLAIN[name.lower()]
            continue
        alpha, beta, function = _SCALED[name.lower()]
        yield _with(function, next(alphas, alpha), 0.0 if beta is None else next(betas, beta))


def _with(function: Callable[[Array, float, float], Array], alpha: float, beta: float) -> Activation:
    return lambda x: function(x, alpha, beta)


def _clipped(node: Node, x: Array) -> Array:
    limit = node.attrs.get("clip")
    return x if limit is None else np.clip(x, -limit, limit)


def _gates(x: Array, w: Array, r: Array, bias: Array, h: Array) -> Array:
    half = bias.shape[0] // 2
    return np.asarray(x @ w.T + h @ r.T + bias[:half] + bias[half:])


def _lstm(node: Node, w: Array, r: Array, bias: Array, peep: Array | None, act: list[Activation]) -> Callable[[Array, State], State]:
    hidden = r.shape[1]
    p_i, p_o, p_f = np.zeros((3, hidden), w.dtype) if peep is None else peep.reshape(3, hidden)

    def cell(x: Array, state: State) -> State:
        h, c = state
        i, o, f, g = np.split(_gates(x, w, r, bias, h), 4, 1)
        i = act[0](_clipped(node, i + p_i * c))
        f = 1 - i if node.attrs.get("input_forget", 0) else act[0](_clipped(node, f + p_f * c))
        c = f * c + i * act[1](_clipped(node, g))
        return act[0](_clipped(node, o + p_o * c)) * act[2](c), c

    return cell


def _gru(node: Node, w: Array, r: Array, bias: Array, _: Array | None, act: list[Activation]) -> Callable[[Array, State], State]:
    size = r.shape[1]
    of_x, of_h = bias[:3 * size], bias[3 * size:]

    def cell(x: Array, state: State) -> State:
        (h,) = state
        z, reset = np.split(act[0](_clipped(node, x @ w[:2 * size].T + h @ r[:2 * size].T + of_x[:2 * size] + of_h[:2 * size])), 2, 1)
        if node.attrs.get("linear_before_reset", 0):
            memory = reset * (h @ r[2 * size:].T + of_h[2 * size:])
        else:
            memory = (reset * h) @ r[2 * size:].T + of_h[2 * size:]
        new = act[1](_clipped(node, x @ w[2 * size:].T + of_x[2 * size:] + memory))
        return ((1 - z) * new + z * h,)

    return cell


def _rnn(node: Node, w: Array, r: Array, bias: Array, _: Array | None, act: list[Activation]) -> Callable[[Array, State], State]:
    return lambda x, state: (act[0](_clipped(node, _gates(x, w, r, bias, state[0]))),)


_CELLS: Mapping[str, Callable[..., Callable[[Array, State], State]]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
