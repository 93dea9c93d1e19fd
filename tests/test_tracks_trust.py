"""What a user may rely on: the surrogate's Jacobian, its validity flag and fall-back, physics checks that do fail,
drawings that draw.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from thesis_surrogates.core.config import OptimizerConfig
from thesis_surrogates.core.data import Data
from thesis_surrogates.core.errors import DataError
from thesis_surrogates.core.export.jacobian import DerivativeError, WithJacobian
from thesis_surrogates.core.export.onnx import export_onnx
from thesis_surrogates.core.training import fit
from thesis_surrogates.core.validity import accepted_up_to, set_box
from thesis_surrogates.tracks.data import TracksData, generate, straight_line
from thesis_surrogates.tracks.field import DipoleField, LHCbLikeField
from thesis_surrogates.tracks.limits import MATERIAL_MM, in_bands, material_floor
from thesis_surrogates.tracks.losses import TracksTrain
from thesis_surrogates.tracks.models import MODELS
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.study.explorer import (
    momentum_explorer,
    momentum_figure,
    trajectory_explorer,
    trajectory_figure,
)
from thesis_surrogates.tracks.training import fit_scalers, plan
from thesis_surrogates.tracks.trust.jacobian import (
    deploy_with_jacobian,
    jacobian_errors,
    jacobian_table,
    surrogate_jacobian,
)
from thesis_surrogates.tracks.trust.physics_checks import (
    MIRRORS,
    checks_table,
    limit_defect,
    mirror_defect,
    physics_checks,
    return_defect,
    wrong_way,
)
from thesis_surrogates.tracks.trust.validity import (
    box_columns,
    fallback_table,
    fit_validity,
    load_validity,
    new_validity,
    save_validity,
    with_fallback,
)

MAGNET = LHCbLikeField()
TYPICAL = torch.tensor(
    [[150.0, -100.0, 0.05, -0.08, 0.1, 2665.0, 5161.0], [-40.0, 210.0, -0.11, 0.02, -0.025, 2665.0, 5161.0]]
)


def stepper(field):
    def predict(inputs):
        rows = inputs.double().numpy()
        return torch.from_numpy(propagate(rows[:, :4], rows[:, 4], rows[:, 5], rows[:, 5] + rows[:, 6], field))

    return predict


def splits(config, sizes):
    pieces = list(generate(config, MAGNET))
    inputs = torch.from_numpy(np.concatenate([p["inputs"] for p in pieces]).astype(np.float32))
    target = torch.from_numpy(np.concatenate([p["target"] for p in pieces]))
    rows = {"inputs": inputs, "target": target, "bend": (target - straight_line(inputs.double())).float()}
    edges = np.cumsum([0, *sizes])
    parts = {
        name: slice(a, b) for name, a, b in zip(("train", "validation", "test"), edges[:-1], edges[1:], strict=True)
    }
    return Data(
        splits={name: {k: v[part] for k, v in rows.items()} for name, part in parts.items()},
        fingerprint="",
        meta={"config": config.model_dump(), "label": "rk4"},
    )


@pytest.fixture(scope="module")
def variable():
    """A residual network on legs of both directions, shortly trained."""
    config = TracksData(n_tracks=60_000, legs="variable", p_low=1.0, p_high=200.0)
    data = splits(config, (40_000, 10_000, 10_000))
    torch.manual_seed(0)
    network = MODELS["residual"](size="tiny").build(config)
    train = TracksTrain(epochs=8, optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.0))
    fit(network, plan(network, data, MODELS["residual"](size="tiny"), train, 0), seed=0, train=train)
    return network.eval().requires_grad_(False), data


# ---- Jacobian

DIFFERENTIABLE = ("mlp", "pinn", "rk_pinn", "residual", "quadratic", "chained", "kick")


@pytest.fixture(scope="module")
def few():
    config = TracksData(n_tracks=2000, legs="variable", p_low=1.0)
    return config, splits(config, (1600, 200, 200))


@pytest.fixture(scope="module")
def few_fixed():
    config = TracksData(n_tracks=2000)
    return config, splits(config, (1600, 200, 200))


def tiny(name, few, **own):
    torch.manual_seed(1)
    options = {"size": "tiny"} | ({"inputs": 7} if "inputs" in MODELS[name].model_fields else {}) | own
    model = MODELS[name](**options).build(few[0])
    fit_scalers(model, few[1])
    return model.eval()


@pytest.mark.parametrize("name, own", [*((n, {}) for n in DIFFERENTIABLE if n in MODELS), ("kick", {"passes": 2})])
def test_jacobian_against_differences(name, own, few):
    check_jacobian(tiny(name, few, **own).double())


SOLVED = (("polynomial", {}), ("polynomial", {"passes": 2}), ("binned", {"degree": 4, "bins": (4, 4)}))


@pytest.mark.parametrize(
    "name, own", [*((n, {}) for n in (*DIFFERENTIABLE, "gauss_legendre")), ("kick", {"passes": 2}), *SOLVED]
)
def test_jacobian_against_differences_on_a_fixed_leg(name, own, few_fixed):
    check_jacobian(tiny(name, few_fixed, **own).double())


SLOW = pytest.mark.skipif("THESIS_SLOW" not in os.environ, reason="half a minute for the exporter: set THESIS_SLOW=1")


@pytest.mark.parametrize("name, own", [pytest.param(*SOLVED[1], marks=SLOW), SOLVED[2]])
def test_solved_models_leave_with_their_jacobian(name, own, few_fixed, tmp_path):
    model = tiny(name, few_fixed, **(own | {"degree": 3}))
    model.solve(few_fixed[1].splits["train"])
    deployable = deploy_with_jacobian(model, few_fixed[1].splits["test"]["inputs"][:50])
    assert export_onnx(deployable, tmp_path / "j.onnx", states=300).max_relative_difference < deployable.tolerance


def check_jacobian(model):
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(2), dtype=parameter.dtype
        )
    inputs = TYPICAL.double().repeat(8, 1) * (
        1 + 0.1 * torch.rand(16, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    state, jacobian = surrogate_jacobian(model, inputs, rows=5)
    assert torch.allclose(state, model(inputs).detach(), rtol=1e-12)
    for column, size in enumerate((1e-2, 1e-2, 1e-6, 1e-6, 1e-6)):
        move = torch.zeros(7, dtype=torch.float64)
        move[column] = size
        brute = ((model(inputs + move) - model(inputs - move)) / (2 * size)).detach()
        assert torch.allclose(jacobian[:, :, column], brute, rtol=1e-4, atol=1e-5 * float(brute.abs().max()) + 1e-9), (
            column
        )
    together = WithJacobian(model, 7, by=5)
    assert all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(together(inputs), (state, jacobian), strict=True)
    )


@pytest.mark.parametrize(
    "name, activation",
    [("mlp", "gelu"), ("mlp", "relu"), ("pinn", "tanh"), ("rk_pinn", "softplus")]
    + [("residual", activation) for activation in ("silu", "elu", "leaky_relu")],
)
def test_jacobian_of_every_activation_against_automatic_differentiation(name, activation, few_fixed):
    torch.manual_seed(0)
    inputs = torch.randn(50, 7, dtype=torch.float64)
    model = MODELS[name](size="tiny", activation=activation).build(few_fixed[0]).double()
    for ours, automatic in zip(WithJacobian(model, 7, by=5)(inputs), surrogate_jacobian(model, inputs), strict=True):
        assert float((ours - automatic).detach().abs().max() / automatic.abs().max()) < 1e-12


def test_state_and_jacobian_leave_together(few, tmp_path):
    deployable = deploy_with_jacobian(tiny("residual", few), TYPICAL)
    parity = export_onnx(deployable, tmp_path / "j.onnx", states=300)
    assert parity.max_relative_difference < parity.tolerance == 1e-4 and parity.outputs == ("extrapolated", "jacobian")


def test_an_operation_without_a_rule_is_refused_by_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(7, 4)

        def forward(self, inputs):
            return torch.cumsum(self.layer(inputs), dim=1)

    with pytest.raises(DerivativeError, match="cumsum"):
        WithJacobian(Odd(), 7)


def test_jacobian_of_a_trained_network(variable):
    network, data = variable
    errors = jacobian_errors(network, data.splits["test"]["inputs"][:3000], MAGNET)
    assert np.median(errors.scaled) < 1e-2 and np.median(errors.unscaled) < 1e-2
    assert np.median(errors.scaled) < 0.2 * np.median(errors.straight[errors.straight > 0.05])
    table = jacobian_table(errors)
    assert set(table.quantity) == {"scaled", "unscaled", "liouville", "straight"} and table.tracks.max() == len(
        errors.scaled
    )
    assert (table[table.band != "all"].groupby("quantity").tracks.sum() == len(errors.scaled)).all()


# ---- validity


@pytest.fixture(scope="module")
def noisy():
    """A 'surrogate' of straight tracks whose error is known: it grows with |q/p| and the length of the leg."""
    inputs = torch.from_numpy(
        next(generate(TracksData(n_tracks=20_000, legs="variable", p_low=1.0), MAGNET))["inputs"].astype(np.float32)
    )

    def predict(rows):
        noise = torch.sin(1e3 * rows[:, :2] + 7e4 * rows[:, 2:4])  # looks random, depends on the track alone
        state = straight_line(rows.double())
        state[:, :2] += noise.double() * (rows[:, 4:5].abs() * rows[:, 6:7].abs() / 1000).double()
        return state

    return inputs, straight_line(inputs.double()), predict


def test_promise_is_kept_on_fresh_tracks(noisy):
    inputs, target, predict = noisy
    validity = fit_validity(
        predict, inputs[:8000], {"inputs": inputs[8000:14000], "target": target[8000:14000]}, epochs=15
    )
    fresh, error = inputs[14000:], (predict(inputs[14000:]) - target[14000:])[:, :2].norm(dim=1).numpy()
    shares = []
    for tolerance in (0.03, 0.1, 0.3, 1.0, 10.0):
        flagged = validity.flagged(fresh, tolerance).numpy()
        shares.append(flagged.mean())
        assert (error[~flagged] > tolerance).mean() < 0.015 or flagged.all()
    assert all(np.diff(shares) <= 0) and shares[-1] < 0.03 and shares[1] > 0.1


def test_a_useless_score_still_keeps_the_promise():
    rng = np.random.default_rng(3)
    broken = sum(accepted_up_to(rng.uniform(size=2000), rng.uniform(size=2000) < 0.02) > -np.inf for _ in range(100))
    assert broken <= 10  # a share of 2 % bad tracks must not pass as 1 %
    assert accepted_up_to(np.arange(2000.0), np.zeros(2000, dtype=bool)) == 1999
    assert accepted_up_to(np.arange(50.0), np.zeros(50, dtype=bool)) == -np.inf  # too few to promise anything


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("side", [-1, 1])
def test_every_side_of_the_box(noisy, column, side):
    inputs, _, _ = noisy
    validity = new_validity()
    set_box(validity, inputs)
    inner = inputs.median(dim=0).values[None].clone()
    assert validity.inside(inputs).all() and validity.inside(inner).all()
    outer = inner.clone()
    outer[0, column] = (inputs[:, column].amax() if side > 0 else inputs[:, column].amin()) + side * 0.05 * float(
        np.ptp(inputs[:, column].numpy())
    )
    assert not validity.inside(outer).any()
    for strange in (torch.nan, torch.inf):
        outer[0, column] = strange
        assert not validity.inside(outer).any()


def test_the_last_plane_has_its_own_side(noisy):
    inputs, _, _ = noisy
    validity = new_validity()
    set_box(validity, inputs)
    far = inputs.median(dim=0).values[None].clone()
    far[0, 5:] = torch.tensor([13000.0, 5000.0])
    assert not validity.inside(far).any() and (far[0, 5] <= validity.high[5]) and (far[0, 6] <= validity.high[6])
    assert box_columns(far)[0, 7] == 18000


def test_fallback(variable):
    network, data = variable
    test = data.splits["test"]
    validity = fit_validity(network, data.splits["train"]["inputs"], data.splits["validation"], epochs=20)
    table = fallback_table(network, validity, MAGNET, {k: v[:5000] for k, v in test.items()}, (0.3, 1.0, 10.0))
    assert (table.accepted_p99_mm <= 1.3 * table.tolerance_mm).all() and (
        table.after_p99_mm <= 1.3 * table.tolerance_mm
    ).all()
    assert table.flagged.is_monotonic_decreasing and (table.before_p99_mm > table.after_p99_mm).all()
    answer = with_fallback(network, validity, MAGNET, 1.0)(test["inputs"][:3000])
    kept = ~answer.flagged
    assert torch.equal(answer.values[kept], network(test["inputs"][:3000])[kept].double())
    miss = (answer.values - test["target"][:3000])[answer.flagged].norm(dim=1)
    assert answer.flagged.any() and miss.max() < 1.0
    empty = with_fallback(network, validity, MAGNET, 1.0)(test["inputs"][:0])
    assert empty.values.shape == (0, 4) and len(empty.flagged) == 0


def test_estimate_beats_momentum_on_variable_legs(variable):
    network, data = variable
    validity = fit_validity(network, data.splits["train"]["inputs"], data.splits["validation"], epochs=20)
    test = data.splits["test"]
    error = (network(test["inputs"]).double() - test["target"])[:, :2].norm(dim=1).numpy()

    def flagged(score, tolerance=1.0):
        order = np.argsort(score)
        good = np.flatnonzero(np.cumsum(error[order] > tolerance) / np.arange(1, len(error) + 1) <= 0.01)
        return 1 - (good[-1] + 1) / len(error) if len(good) else 1.0

    estimate, oracle, momentum = (
        flagged(s) for s in (validity.log_error(test["inputs"]).numpy(), error, test["inputs"][:, 4].abs().numpy())
    )
    assert oracle < estimate < 2 * oracle + 0.02 and momentum > estimate + 0.2


def test_nobody_is_trusted_before_calibration_and_strange_tracks_never():
    fresh = new_validity()
    answer = with_fallback(straight_line, fresh, MAGNET, 1.0)(
        torch.cat([TYPICAL, TYPICAL * torch.nan, TYPICAL * torch.inf])
    )
    assert answer.flagged.all() and answer.values[:2].isfinite().all() and answer.values[2:].isnan().all()
    exact = propagate(TYPICAL[:, :4].numpy(), TYPICAL[:, 4].numpy(), 2665.0, 7826.0, MAGNET)
    assert np.abs(answer.values[:2].numpy() - exact)[:, :2].max() < 0.1
    with pytest.raises(ValueError, match="smallest"):
        fresh.threshold(1e-6)


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_tolerance_is_a_finite_positive_number(tolerance):
    with pytest.raises(ValueError, match=f"tolerance is {tolerance:g} mm; give a finite positive number"):
        with_fallback(straight_line, new_validity(), MAGNET, tolerance)


def test_validity_file(noisy, tmp_path):
    inputs, target, predict = noisy
    validity = fit_validity(
        predict, inputs[:2000], {"inputs": inputs[2000:6000], "target": target[2000:6000]}, epochs=2
    )
    save_validity(validity, tmp_path / "validity.json")
    again = load_validity(tmp_path / "validity.json")
    assert all(
        torch.equal(a, b) for a, b in zip(validity.state_dict().values(), again.state_dict().values(), strict=True)
    )
    for damage in ("", "{}", json.dumps({"hidden": [16], "numbers": {"tolerances": [1.0]}})):
        (tmp_path / "bad.json").write_text(damage)
        with pytest.raises(DataError, match="bad.json"):
            load_validity(tmp_path / "bad.json")
    with pytest.raises(DataError, match="absent"):
        load_validity(tmp_path / "absent.json")


def test_a_validity_file_of_before_the_flag_moved_to_core_still_loads(noisy, tmp_path):
    inputs, target, predict = noisy
    validity = fit_validity(
        predict, inputs[:2000], {"inputs": inputs[2000:4000], "target": target[2000:4000]}, epochs=1
    )
    save_validity(validity, tmp_path / "new.json")
    stored = json.loads((tmp_path / "new.json").read_text())
    stored["numbers"]["stiffest"] = stored["numbers"].pop("error_features.stiffest")
    (tmp_path / "old.json").write_text(json.dumps(stored))
    again = load_validity(tmp_path / "old.json")
    assert all(torch.equal(a, b) for a, b in zip(again(inputs), validity(inputs), strict=True))
    (tmp_path / "other.json").write_text(json.dumps({**stored, "kind": "orbits.validity"}))
    with pytest.raises(DataError, match="orbits.validity"):
        load_validity(tmp_path / "other.json")


def test_same_seed_same_validity(noisy):
    inputs, target, predict = noisy
    pair = [
        fit_validity(
            predict, inputs[:2000], {"inputs": inputs[2000:4000], "target": target[2000:4000]}, seed=5, epochs=1
        )
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(v.state_dict().values() for v in pair), strict=True))


# ---- physics checks

TRACKS = torch.cat([TYPICAL.double(), TYPICAL.double() * torch.tensor([1, 1, 1, 1, 1, 1, -0.3], dtype=torch.float64)])


@pytest.mark.parametrize(
    "field", [LHCbLikeField(), DipoleField(), LHCbLikeField(polarity=-1)], ids=["lhcb", "dipole", "up"]
)
def test_the_stepper_passes_every_check(field):
    checks = physics_checks(stepper(field), TRACKS, field, both_directions=True)
    assert max(checks[name].max() for name in ("mirror in x", "mirror in y", "no field", "no leg")) < 1e-9
    assert checks["way back"].max() < 1e-4 and checks["wrong way"][0] == 0
    assert (checks["charge"] < 0.1 * checks["bend"]).all()


def test_sabotage_is_seen():
    exact = stepper(MAGNET)
    push = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    assert mirror_defect(lambda r: exact(r) + push, TRACKS, MIRRORS["mirror in x"]).min() > 1.9
    assert mirror_defect(lambda r: exact(r) + push.roll(1), TRACKS, MIRRORS["mirror in y"]).min() > 1.9
    assert (
        limit_defect(lambda r: exact(r) + push, TRACKS, 4).min() > 0.9
        and limit_defect(lambda r: exact(r) + push, TRACKS, 6).min() > 0.9
    )
    assert return_defect(lambda r: exact(r) + push, TRACKS).min() > 0.5
    assert wrong_way(stepper(LHCbLikeField(polarity=-1)), TRACKS, MAGNET) == 1
    table = checks_table({"exact": exact, "line": lambda r: straight_line(r)}, TRACKS, MAGNET, both_directions=False)
    assert not {"no leg", "way back"} & set(table.check) and len(table) == 2 * 6


def test_all_contenders_are_judged_on_the_same_tracks_and_no_answer_is_infinitely_wrong():
    exact, lost = stepper(MAGNET), torch.arange(len(TRACKS)) == 0
    honest = checks_table({"exact": exact, "same": exact}, TRACKS, MAGNET, both_directions=False).set_index(
        ["contender", "check"]
    )
    assert (honest.left_out == 0).all() and honest.loc["exact"].equals(honest.loc["same"])
    silent = lambda r: torch.where(lost[:, None], torch.nan, exact(r))  # noqa: E731  (an answer for all tracks but the first)
    stepper_fails = checks_table({"exact": silent, "net": exact}, TRACKS, MAGNET, both_directions=False).set_index(
        ["contender", "check"]
    )
    assert stepper_fails.loc[("net", "charge"), "left_out"] == 1 and np.isfinite(
        stepper_fails.loc[("net", "charge"), "max"]
    )
    net_fails = checks_table({"exact": exact, "net": silent}, TRACKS, MAGNET, both_directions=False).set_index(
        ["contender", "check"]
    )
    assert net_fails.loc[("net", "charge"), "max"] == np.inf and net_fails.loc[("net", "charge"), "left_out"] == 0


def test_networks_built_on_the_straight_line_have_exact_limits(variable):
    network, data = variable
    test = data.splits["test"]["inputs"][:500]
    assert (
        limit_defect(network, test, 6).max() < 2e-3 and limit_defect(network, test, 4).max() < 5e-3
    )  # rounding of metres in float32


# ---- limits and drawings


def test_bands_cover_everything_once():
    momentum = np.array([0.5, 3.0, 7.999, 8.0, 20.0, 50.0, 1e5, np.inf])
    bands = in_bands(momentum)
    assert sum(mask.sum() for name, mask in bands.items() if name != "all") == len(momentum) == bands["all"].sum()
    assert material_floor(momentum).tolist() == [MATERIAL_MM[i] for i in (0, 1, 1, 2, 3, 4, 4, 4)]


@pytest.mark.parametrize("polarity", [1, -1, 0])
@pytest.mark.parametrize("charge", [1, -1])
def test_trajectory_drawings(polarity, charge):
    figure, table = trajectory_figure(
        momentum_gev=8.0, charge=charge, polarity=polarity, surrogate=straight_line, field="dipole"
    )
    bend = table.x_mm.iloc[-1] - table.line_x_mm.iloc[-1]
    assert np.sign(bend) == polarity * charge if polarity else abs(bend) < 1e-9
    assert len(figure.axes) == 4 and "straight" in figure.axes[0].get_legend().get_texts()[0].get_text()


def test_explorers_react():
    explorer = trajectory_explorer(straight_line)
    picture, controls = explorer.children[0], explorer.children[1].children
    seen = {picture.value}
    for control, value in zip(controls, (10.0, -1, 0, 50.0, 50.0, 0.1, 0.1), strict=True):
        control.value = value
        seen.add(picture.value)
    assert len(seen) >= 7
    chooser = momentum_explorer({"line": straight_line, "exact": stepper(MAGNET)})
    before = chooser.children[0].value
    chooser.children[1].children[0].value = ("line",)
    assert chooser.children[0].value != before
    _, table = momentum_figure({"exact": stepper(MAGNET)}, points=5)
    assert table.position_mm.max() < 1e-2
