"""Bounds on the error of encrypted answers: against exact arithmetic, and against what is measured."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.he.networks import box, network, rows_in
from wardround.errors import LocalError
from wardround.strategies.he.inference_plan import (
    LINEAR,
    MAX_ERROR,
    ONE_HIDDEN_LAYER,
    Box,
    Layer,
    Network,
    ParameterSet,
    assure,
    choose_parameters,
    rounded_weights,
)
from wardround.strategies.he.private_inference import measured_error
from wardround.vector import F64

OF_THE_SPEC = ParameterSet(degree=4096, primes=(40, 20, 40), input_bits=20, weight_bits=20)


def test_a_network_is_linear_layers_with_squares_between() -> None:
    first = Layer(weight=np.array([[1.0, 2.0]]), bias=np.array([3.0]))
    last = Layer(weight=np.array([[5.0], [7.0]]), bias=np.array([0.0, 1.0]))
    assert Network(layers=(first,))(np.array([[10.0, 100.0]])).tolist() == [[213.0]]
    assert Network(layers=(first, last))(np.array([[1.0, 1.0]])).tolist() == [[180.0, 253.0]]


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="layers that fit"):
        Network(layers=(network(3, 2).layers[0], network(3, 1).layers[0]))
    with pytest.raises(ValueError, match=r"expected shapes \(out, in\)"):
        Layer(weight=np.ones((2, 3)), bias=np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        Layer(weight=np.full((1, 1), np.nan), bias=np.ones(1))


@pytest.mark.parametrize(
    ("degree", "primes", "words"),
    [
        (4096, (45, 45, 17), "at most 106 bits for 128-bit security, got 107"),
        (8192, (60, 60, 60, 35), "at most 214 bits for 128-bit security, got 215"),
        (512, (20, 20), "at most 0 bits"),
        (4096, (61, 40), "17 to 60 bits"),
        (4096, (60,), "at least two primes"),
    ],
)
def test_parameters_without_128_bit_security_cannot_be_made(degree: int, primes: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ParameterSet(degree=degree, primes=primes, input_bits=30, weight_bits=20)


def test_the_cheapest_parameters_that_fit_are_chosen() -> None:
    assert choose_parameters(network(30, 1), box(30)).parameters is LINEAR
    assert choose_parameters(network(30, 16, 2), box(30)).parameters is ONE_HIDDEN_LAYER


def test_the_bound_covers_the_worst_corner_of_the_box() -> None:
    found = assure(network(30, 3), box(30), LINEAR)
    assert found.output >= np.abs(network(30, 3)(rows_in(box(30), 4096))).max()
    [layer] = network(30, 3).layers
    at_best = np.where(layer.weight > 0, 9.0, -4.0)
    reached = [abs(one @ row + bias) for one, row, bias in zip(layer.weight, at_best, layer.bias, strict=True)]
    at_worst = np.where(layer.weight > 0, -4.0, 9.0)
    reached += [abs(one @ row + bias) for one, row, bias in zip(layer.weight, at_worst, layer.bias, strict=True)]
    assert found.output == pytest.approx(max(reached))


def worst(one: Network, row: F64, signs: F64, parameters: ParameterSet) -> float:
    """How far outputs are off, in fractions, where each input is by as much as a fresh ciphertext can be."""
    fresh = Fraction(43 * parameters.degree, 2) / 2**parameters.input_bits  # 21 + 1/2 in every coefficient
    exact = [Fraction(value) for value in row.tolist()]
    off = [value + int(sign) * fresh for value, sign in zip(exact, signs.tolist(), strict=True)]
    for place, layer in enumerate(one.layers):
        if place:
            exact, off = [value**2 for value in exact], [value**2 for value in off]
        rounded = rounded_weights(layer.weight, parameters)
        exact, off = _applied(layer.weight, layer.bias, exact), _applied(rounded, layer.bias, off)
    return float(max(abs(a - b) for a, b in zip(exact, off, strict=True)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), deep=st.booleans())
def test_no_error_that_the_sources_allow_is_above_the_bound(seed: int, deep: bool) -> None:
    one, where = network(4, 3, 2, seed=seed) if deep else network(4, 2, seed=seed), box(4)
    parameters = ONE_HIDDEN_LAYER if deep else LINEAR
    found, row = assure(one, where, parameters), rows_in(where, 2, seed)[seed % 2]
    signs = np.sign(one.layers[0].weight[0])
    assert max(worst(one, row, signs, parameters), worst(one, row, -signs, parameters)) <= found.error


@pytest.mark.parametrize("widths", [(1, 1), (1, 1, 1)])
def test_the_bound_is_reached_where_everything_adds_up(widths: tuple[int, ...]) -> None:
    """Positive weights, and the largest input, off in the direction of the rounding: nothing cancels out."""
    layers = tuple(Layer(weight=np.array([[0.7]]), bias=np.array([0.3])) for _ in widths[1:])
    one, parameters = Network(layers=layers), ONE_HIDDEN_LAYER if len(widths) > 2 else LINEAR
    found = assure(one, box(1), parameters)
    direction = np.sign(rounded_weights(layers[0].weight, parameters) - 0.7)[0]
    assert 0.9 * found.error < worst(one, np.array([9.0]), direction, parameters) <= found.error


def _applied(weight: F64, bias: F64, values: list[Fraction]) -> list[Fraction]:
    return [
        sum((Fraction(a) * b for a, b in zip(row, values, strict=True)), Fraction(constant))
        for row, constant in zip(weight.tolist(), bias.tolist(), strict=True)
    ]


@pytest.mark.parametrize("widths", [(30, 1), (30, 3), (1, 1), (12, 8, 2)])
def test_what_is_measured_is_below_the_bound(widths: tuple[int, ...]) -> None:
    one, where = network(*widths), box(widths[0])
    found = choose_parameters(one, where)
    measured = measured_error(found.parameters, one, rows_in(where, 500))
    assert 0 < measured <= found.error <= MAX_ERROR
    assert found.error < 2000 * measured  # and the bound is no empty one


def test_the_parameters_that_the_spec_names_are_refused_and_are_bad() -> None:
    one, where = network(30, 1, size=8.0), box(30)
    with pytest.raises(LocalError, match=r"4096 \[40, 20, 40\]: expected an error of at most 0.001, got"):
        choose_parameters(one, where, [OF_THE_SPEC])
    measured = measured_error(OF_THE_SPEC, one, rows_in(where, 2048))
    assert MAX_ERROR < measured <= assure(one, where, OF_THE_SPEC).error


def test_results_that_do_not_fit_the_modulus_are_refused() -> None:
    one = network(2, 1)
    huge = Network(layers=(Layer(weight=one.layers[0].weight * 2.0**20, bias=one.layers[0].bias),))
    with pytest.raises(LocalError, match=r"4096.*: expected a modulus of at least 9[0-9] bits, for results up to .*89"):
        assure(huge, box(2), LINEAR)
    with pytest.raises(LocalError, match=r"no parameters of CKKS fit the model \(4096.*expected a modulus.*; 8192"):
        choose_parameters(network(2, 2, 2, 1), box(2))
    with pytest.raises(ValueError, match="a box of 2 inputs"):
        assure(one, box(3), LINEAR)
    with pytest.raises(ValueError, match="none above its largest"):
        box(2, low=3, high=1)


def test_weights_are_rounded_and_no_output_is_without_any() -> None:
    weight = np.array([[1 / 3, -0.5], [1e-12, -1e-12], [0.0, 0.0]])
    rounded, unit = rounded_weights(weight, LINEAR), 2.0**-28
    assert np.abs(rounded[0] - weight[0]).max() <= unit / 2 and rounded[0, 1] == -0.5
    assert (rounded / unit == np.rint(rounded / unit)).all()
    assert rounded[1:].tolist() == [[unit, 0.0], [unit, 0.0]]


def test_zero_is_an_input_for_unused_slots_hold_it() -> None:
    one = Network(layers=(Layer(weight=np.array([[1.0]]), bias=np.array([-100.0])),))
    assert assure(one, box(1, low=99, high=101), LINEAR).output == pytest.approx(100)


def test_inputs_whose_weights_are_zero_have_to_fit_too() -> None:
    """No output shows them, and SEAL could not encode them: the asker would find out, with the model described."""
    layer = Layer(weight=np.array([[0.0, 1.0]]), bias=np.zeros(1))
    where = Box(low=np.array([0.0, 0.0]), high=np.array([2.0**50, 1.0]))
    with pytest.raises(LocalError, match=r"4096.*: expected a modulus of at least 93 bits, for results up to 1\.13e"):
        assure(Network(layers=(layer,)), where, LINEAR)


def test_a_constant_has_to_fit_too() -> None:
    """The hidden value is near 2000 in every row, and the constant takes its square away again."""
    first = Layer(weight=np.array([[1e-6]]), bias=np.array([2000.0]))
    last = Layer(weight=np.array([[64.0]]), bias=np.array([-2.56e8]))
    with pytest.raises(LocalError, match="expected a modulus"):
        assure(Network(layers=(first, last)), box(1), ONE_HIDDEN_LAYER)


@pytest.mark.parametrize(("widths", "size"), [((30, 1), 1.0), ((30, 3), 4.0), ((30, 8, 1), 0.5)])
def test_no_row_that_is_searched_for_is_above_the_bound(widths: tuple[int, ...], size: float) -> None:
    """The corners that make outputs, and the gradients of the error, the largest; a whole batch of each."""
    one, where = network(*widths, size=size), box(widths[0], low=-3, high=7)
    found = choose_parameters(one, where)
    signs = [np.sign(row) for layer in one.layers[:1] for row in layer.weight]
    corners = np.array([np.where(sign > 0, high, low) for sign in signs for high, low in ((7.0, -3.0), (-3.0, 7.0))])
    rows = np.repeat(corners, found.parameters.slots // len(corners), axis=0)
    assert measured_error(found.parameters, one, rows) <= found.error
