"""Features and heads of orbits: every name with its formula, gradients at the origin, and predictions as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from thesis_surrogates.core.config import hash_canonical
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.models import ACTIVATIONS
from thesis_surrogates.orbits.data import OrbitsData
from thesis_surrogates.orbits.features import FEATURES
from thesis_surrogates.orbits.fused import find_obstacle
from thesis_surrogates.orbits.heads import HEADS
from thesis_surrogates.orbits.models import NeuralField, NeuralODEConfig
from thesis_surrogates.orbits.networks.fields.kan import BASES, squash

# Before features and heads had modules of their own: sums of derivatives, of fields with the weights of `known_field`.
KNOWN = json.loads((Path(__file__).parent / "orbits_fields.json").read_text(encoding="utf-8"))
STATE = torch.tensor([[1.2, 0.3, -0.4, -0.1, 0.9, 0.2], [-2.0, 3.0, 0.5, 0.2, 0.3, -0.6]], dtype=torch.float64)


def known_field(features: str, head: str, dimensions: int, **more: object) -> NeuralField:
    config = NeuralODEConfig(features=features, head=head, width=5, activation="tanh", **more)  # type: ignore[arg-type]
    field = NeuralField(config, dimensions).double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(torch.linspace(-0.7, 0.9, parameter.numel(), dtype=torch.float64).reshape(parameter.shape))
    field.scale.fill_(0.37)
    return field


@pytest.mark.parametrize("name", KNOWN)
def test_fields_predict_what_they_always_did(name: str) -> None:
    features, head, dimensions = name.split()
    field = known_field(features, head, int(dimensions))
    assert float(field(STATE).detach().sum()) == pytest.approx(KNOWN[name], rel=1e-13)
    assert list(field.state_dict()) == ["scale", *(f"network.{k}.{n}" for k in (0, 2, 4) for n in ("weight", "bias"))]


def test_later_keys_change_no_identity() -> None:
    assert hash_canonical(NeuralODEConfig().model_dump(mode="json")) == "7d0ce738cb"
    with pytest.raises(ValueError, match="harmonics is 4, but sph_4D_rinv_vel"):
        NeuralODEConfig(harmonics=4)
    with pytest.raises(ValueError, match="head_clip is 2.0"):
        NeuralODEConfig(head_clip=2.0)


@pytest.mark.parametrize("basis", BASES)
def test_functions_on_edges_are_smooth_and_say_why_they_are_not_compiled(basis: str) -> None:
    torch.manual_seed(0)
    field = NeuralField(NeuralODEConfig(basis=basis, basis_count=5, width=3, depth=1, activation="tanh"), 3).double()
    derivative = torch.autograd.functional.jacobian(lambda one: field(one), STATE[0])
    for axis in range(6):
        step = 1e-5 * torch.eye(6, dtype=torch.float64)[axis]
        slope = (field(STATE[0] + step) - field(STATE[0] - step)) / 2e-5
        assert torch.allclose(derivative[:, axis], slope, rtol=1e-4, atol=1e-6)
    assert find_obstacle(field) == "the layers are EdgeFunctions"
    far = torch.tensor([1e6, -1e6], dtype=torch.float64)
    assert torch.isfinite(BASES[basis](squash(far), 5)).all()


def test_a_basis_is_named_and_its_number_needs_it() -> None:
    with pytest.raises(ValueError, match="gaussian"):
        NeuralODEConfig(basis="gausian")
    with pytest.raises(ValueError, match="basis_count is 8"):
        NeuralODEConfig(basis_count=8)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("features", FEATURES)
def test_values_and_gradients_are_finite_at_the_origin(features: str, dimensions: int) -> None:
    """With every head: a zero direction, a state at rest, and one in the very centre."""
    for head in HEADS:
        field = NeuralField(NeuralODEConfig(features=features, head=head, width=8), dimensions)
        for parameter in field.network[-1].parameters():  # type: ignore[union-attr]
            torch.nn.init.zeros_(parameter)
        state = torch.tensor([[1.0, 0, 0, 0, 0, 0], [2.0, 1, 0, 1, 0.5, 0], [0.0, 0, 0, 0, 0, 0]], requires_grad=True)
        derivative = field(state)
        derivative.square().sum().backward()
        assert torch.isfinite(derivative).all() and torch.isfinite(state.grad).all(), head  # type: ignore[arg-type]
        gradients = [parameter.grad for parameter in field.parameters()]
        assert all(torch.isfinite(gradient).all() for gradient in gradients), head  # type: ignore[arg-type]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_stands_in_the_tables_is_callable_as_it_stands(dimensions: int) -> None:
    state = STATE[:, :4] if dimensions == 2 else STATE
    for name, layer in FEATURES.items():
        assert layer(state).shape[-1] == len(layer.labels(dimensions)) == len(set(layer.labels(dimensions))), name
    for name, head in HEADS.items():
        derivative = head(torch.full((2, head.outputs(dimensions)), 0.3, dtype=torch.float64), state)
        assert derivative.shape == state.shape, name
        assert name == "mlp_simple" or torch.equal(derivative[:, :dimensions], state[:, dimensions:])
    with pytest.raises(ValueError, match="4 components in the plane"):
        layer(STATE[:, :5])


def test_heads_give_their_formulas() -> None:
    outputs, state = torch.tensor([0.5, 3.0, -4.0, 0.0], dtype=torch.float64), STATE[0]
    m, d = outputs[:1], outputs[1:]
    unit, bent = d / 5, torch.tanh(d) / torch.tanh(d).norm()
    soft = torch.log1p(m.exp())
    expected = {
        "mlp_4D": m * d,
        "mlp_4D_accsoftplus": soft * d,
        "mlp_4D_unit": m * unit,
        "mlp_4D_activation": torch.sigmoid(m) * torch.tanh(d),
        "mlp_4D_logmag_exp": m.exp() * d,
        "mlp_4D_logmag_unit_exp": m.exp() * unit,
        "mlp_4D_logmag_unit_tanh_exp": m.exp() * bent,
        "mlp_4D_logmag_unit_tanh_softplus": (soft + 1e-8) * bent,
    }
    for name, acceleration in expected.items():
        assert torch.allclose(HEADS[name](outputs, state)[3:], acceleration, atol=1e-6), name
    assert HEADS["mlp_4D_accsoftplus"] is HEADS["mlp_4D_softplus"]
    scaled = HEADS["mlp_4D_unit_scaled"].with_parameters(scale=3.0)
    assert torch.allclose(scaled(-outputs, state)[3:], -3 * m * unit, atol=1e-6)
    clipped = HEADS["mlp_4D_logmag_unit_tanh_softplus_clip"].with_parameters(clip=0.1)
    assert torch.allclose(clipped(outputs, state)[3:], torch.log1p(torch.tensor(0.1).exp()) * bent, atol=1e-6)


@pytest.mark.parametrize("head", ["rtn", "rtn_logmag_unit_exp"])
def test_an_isotropic_field_turns_with_its_state(head: str) -> None:
    field = known_field("invariants", head, 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)
    both = torch.block_diag(turn, turn)
    assert field.assumes == "isotropy"
    assert torch.allclose(field(STATE @ both.T), field(STATE) @ both.T, atol=1e-9)
    assert known_field("sph_4D_rinv_vel", head, 3).assumes == "generic"
    assert known_field("sph_4D_rinv_vel_loga_energy", head, 3).assumes == "gravity"


def test_the_plane_in_both_ways() -> None:
    planar = OrbitsData(train_set="complex_TBP_planar_2_train", test_set="complex_TBP_planar_2_test")
    space = OrbitsData(train_set="complex_TBP_nonplanar_2_train", test_set="complex_TBP_nonplanar_2_test")
    flat = STATE * torch.tensor([1.0, 1, 0, 1, 1, 0])
    original = NeuralODEConfig(planar="original", width=4).build(planar).double()
    rate = original(flat)
    assert original.dimensions == 3 and (rate[:, 2] == 0).all() and (rate[:, 5] != 0).all()
    assert torch.equal(original.reduced(flat), rate)
    with pytest.raises(ConfigError, match="planar is 'original'"):
        NeuralODEConfig(planar="original").build(space)


def test_activations_behind_the_last_layer_and_with_a_slope_to_learn() -> None:
    field = known_field("cartesian_only", "mlp_simple_hybrid", 2, final_activation="tanh")
    assert (field.acceleration(STATE)[:, :2].abs() < 0.37).all()
    learned = NeuralField(NeuralODEConfig(activation="prelu", width=4), 2)
    assert [name for name, _ in learned.named_parameters() if "1." in name] == ["network.1.weight"]
    assert float(ACTIVATIONS["shifted_softplus"]()(torch.zeros(1))) == pytest.approx(0, abs=1e-7)
