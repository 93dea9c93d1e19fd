"""Track networks: true sizes, exact limits, honest losses, deployment, and a short training that must learn."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from thesis_surrogates.core.comparison import evaluate_all
from thesis_surrogates.core.config import OptimizerConfig, check_run
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.export.onnx import export_onnx
from thesis_surrogates.core.models import Normalizer, count_parameters
from thesis_surrogates.core.training import fit
from thesis_surrogates.tracks.axis_tables import AxisFrame
from thesis_surrogates.tracks.data import TracksData, straight_line
from thesis_surrogates.tracks.field import DipoleField, LHCbLikeField, UniformField
from thesis_surrogates.tracks.field_map import GridField
from thesis_surrogates.tracks.files import load_data
from thesis_surrogates.tracks.losses import TracksTrain, loss_terms
from thesis_surrogates.tracks.models import MODELS, SOLVED_MODELS
from thesis_surrogates.tracks.networks.plain import SIZES
from thesis_surrogates.tracks.production import make_data
from thesis_surrogates.tracks.propagation import propagate
from thesis_surrogates.tracks.system import SYSTEM
from thesis_surrogates.tracks.training import fit_scalers

COUNTS = {
    "tiny": (4868, 18388, 4932),
    "small": (17924, 69524, 18052),
    "medium": (100996, 201748, 101252),
    "large": (398596, 796692, 399108),
    "wide": (430980, 531732, 431492),
}
OF_THE_STUDY = ("mlp", "pinn", "rk_pinn")  # they read six or seven inputs and say absolute states
FRAMED = tuple(name for name in MODELS if name not in OF_THE_STUDY)  # straight line by construction
FIXED, VARIABLE = TracksData(n_tracks=4000), TracksData(n_tracks=4000, legs="variable", p_low=1.0)


@pytest.fixture(scope="module", params=["fixed", "variable"])
def prepared(request, tmp_path_factory):
    config = FIXED if request.param == "fixed" else VARIABLE
    path = tmp_path_factory.mktemp("tracks") / "tracks.h5"
    make_data(config, path)
    return config, load_data(config, path)


def model_config(name, data, **options):
    inputs = {"inputs": 7 if data.legs == "variable" else 6} if name in OF_THE_STUDY else {}
    return MODELS[name](name=name, **inputs, **options)


def prepared_model(name, prepared, **options):
    config, data = prepared
    if name in SOLVED_MODELS and config.legs == "variable":
        pytest.skip("a polynomial belongs to one pair of planes")
    torch.manual_seed(0)
    model = model_config(name, config, size="tiny", **options).build(config)
    fit_scalers(model, data)
    return model


@pytest.mark.parametrize("size", SIZES)
def test_a8_parameter_counts(size):
    plain, staged, seven = COUNTS[size]
    count = {name: count_parameters(MODELS[name](size=size).build(FIXED)) for name in MODELS}
    assert (count["mlp"], count["pinn"], count["rk_pinn"]) == (plain, plain, staged)
    assert count_parameters(MODELS["mlp"](size=size, inputs=7).build(FIXED)) == seven


def test_a_residual_of_the_prototype_size():
    assert count_parameters(MODELS["residual"](size="small").build(FIXED)) == 17796


@pytest.mark.parametrize("name", OF_THE_STUDY)
def test_six_inputs_cannot_describe_variable_legs(name):
    with pytest.raises(ConfigError, match="model.inputs"):
        MODELS[name]().build(VARIABLE)
    for solved in SOLVED_MODELS:
        with pytest.raises(ConfigError, match=f"{solved}.*pair of planes"):
            MODELS[solved]().build(VARIABLE)
    with pytest.raises(ConfigError, match="two hidden widths"):
        MODELS["rk_pinn"](hidden=(64,)).build(FIXED)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hidden", [[], [64, 0]])
def test_a_network_without_a_layer_is_refused(name, hidden):
    with pytest.raises(ConfigError, match=r"hidden.*\[.*give at least one width, all positive, or leave it out"):
        check_run(
            {"system": "tracks", "model": {"name": name, "hidden": hidden}, "seed": 0}, MODELS, TracksData, TracksTrain
        )


@pytest.mark.parametrize("name", MODELS)
def test_scales_are_sound(name, prepared):
    model = prepared_model(name, prepared)
    scales = [module.std for module in model.modules() if isinstance(module, Normalizer)]
    assert scales and all((std > 1e-9).all() for std in scales)
    assert torch.isfinite(model(prepared[1].splits["train"]["inputs"])).all()


@pytest.mark.parametrize("name", FRAMED)
def test_a6_exact_limits(name, prepared):
    model = prepared_model(name, prepared)
    inputs = prepared[1].splits["test"]["inputs"].clone()
    neutral = inputs.clone()
    neutral[:, 4] = 0
    assert (model(neutral) - straight_line(neutral)).abs().max() <= (
        0 if name == "residual" else 2e-3
    )  # float32 at several metres
    inputs[:, 6] = 0
    assert (model(inputs) - inputs[:, :4]).abs().max() <= 1e-5
    kickless = model.double()
    assert (kickless(neutral.double()) - straight_line(neutral.double())).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["kick", "polynomial"])
def test_without_a_field_the_table_is_empty_and_the_answer_straight(name, prepared):
    model = prepared_model(name, prepared).double()
    train = dict(prepared[1].splits["train"])
    model.frame.fit(train, UniformField(by=0.0))
    inputs = train["inputs"][:500].double()
    assert (model(inputs) - straight_line(inputs)).abs().max() < 1e-9


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("field", [DipoleField(), LHCbLikeField(polarity=-1), GridField.sample(DipoleField())])
def test_kicks_and_states_are_inverse(field, passes, prepared):
    config, data = prepared
    frame = AxisFrame(config.legs == "variable", passes=passes).double()
    train = {key: value[:500].double() for key, value in data.splits["train"].items()}
    frame.fit(train, field)
    inputs = train["inputs"]
    final = torch.from_numpy(
        propagate(
            inputs[:, :4].numpy(),
            inputs[:, 4].numpy(),
            inputs[:, 5].numpy(),
            (inputs[:, 5] + inputs[:, 6]).numpy(),
            field,
            step=20.0,
        )
    )
    kicks = frame.kicks(inputs, final)
    seen = torch.isfinite(kicks).all(1)
    assert seen.float().mean() > 0.8 and (frame.state(inputs[seen], kicks[seen]) - final[seen]).abs().max() < 1e-7


def solved_table(prepared, keep=None, **options):
    """A binned polynomial after its least squares, with the training tracks that `keep` chooses."""
    config, data = prepared
    if config is not FIXED:
        pytest.skip("a polynomial belongs to one pair of planes")
    train = dict(data.splits["train"])
    model = model_config("binned", config, **options).build(config)
    fit_scalers(model, data)
    model.solve(train if keep is None else {name: value[keep(train["inputs"])] for name, value in train.items()})
    return model


def misses(model, rows):
    with torch.no_grad():
        return (model(rows["inputs"]) - rows["target"])[:, :2].norm(dim=1)


def test_bins_without_tracks_answer_with_the_whole_range(prepared):
    """One track in each of 750 bins on average, none in half of the directions, or none at all: never worse than a
    hundredth of the bend.
    """
    test = dict(prepared[1].splits["test"])
    bend = test["bend"][:, :2].norm(dim=1).mean()
    for keep in (None, lambda inputs: inputs[:, 2].abs() < 0.1, lambda inputs: torch.arange(len(inputs)) < 300):
        model = solved_table(prepared, keep)
        assert torch.isfinite(model.coefficients).all()
        inside = test["inputs"][:, 2].abs() < 0.1
        missed = misses(model, test)
        assert missed[inside].mean() < 0.01 * bend and missed.mean() < 0.1 * bend
    untaught = solved_table(prepared, lambda inputs: inputs[:, 4] > 1e9)
    assert (untaught.coefficients == 0).all()


def test_the_table_answers_outside_its_bins_and_keeps_what_is_no_number(prepared):
    model = solved_table(prepared, bins=(8, 6))
    inputs = prepared[1].splits["test"]["inputs"][:5].clone()
    inputs[0, 2], inputs[1, 3], inputs[2, 2], inputs[3, 4] = 0.2, -0.2, torch.nan, torch.inf
    answer = model(inputs)
    assert torch.isfinite(answer[[0, 1, 4]]).all() and not torch.isfinite(answer[[2, 3]]).all(dim=1).any()
    assert (answer[:2, :2] - straight_line(inputs[:2])[:, :2]).abs().max() < 5e3


def test_a_table_knows_its_reflections_and_finds_the_truth_of_its_own_kind(prepared):
    """Tracks that a table has answered are learned by a second table exactly."""
    first = solved_table(prepared, degree=3, bins=(4, 2)).double()
    inputs = prepared[1].splits["train"]["inputs"]
    flips = torch.tensor([[-1, 1, -1, 1, -1, 1, 1], [1, -1, 1, -1, 1, 1, 1]], dtype=torch.float64)
    for flip in flips:
        assert (first(inputs.double() * flip) - first(inputs.double()) * flip[:4]).abs().max() < 1e-9
    second = model_config("binned", FIXED, degree=3, bins=(4, 2), ridge=1e-12).build(FIXED).double()
    second.load_state_dict(first.state_dict())
    second.solve({"inputs": inputs, "target": first(inputs.double()).detach()})
    assert torch.allclose(first.coefficients, second.coefficients, atol=1e-8)


@pytest.mark.parametrize("bins", [(59, 50), (0, 2)])
def test_bins_come_in_pairs(bins):
    with pytest.raises(ValueError, match="even"):
        MODELS["binned"](name="binned", bins=bins)


def test_stage_weights_start_as_runge_kutta(prepared):
    assert torch.allclose(prepared_model("rk_pinn", prepared).stage_weights, torch.tensor([1, 2, 2, 1]) / 6, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_the_terms_are_applied(name, prepared):
    model = prepared_model(name, prepared)
    batch = model.loss_columns({k: v[:64] for k, v in prepared[1].splits["train"].items()})
    field = LHCbLikeField()

    def terms(**weights):
        return {
            k: float(v.detach())
            for k, v in loss_terms(MODELS[name].loss, field, TracksTrain(n_collocation=2, **weights))(
                model, batch
            ).items()
        }

    base, dominated, plain = terms(), terms(lambda_data=0.1), terms(lambda_pde=0, lambda_ic=0)
    assert base["loss"] - dominated["loss"] == pytest.approx(0.9 * base["data"], rel=1e-3)
    assert plain["loss"] == pytest.approx(base["data"], rel=1e-6) and not {"pde", "ic", "stage_1"} & set(plain)
    expected = {
        "pinn": {"pde", "ic"},
        "rk_pinn": {f"stage_{k}" for k in (1, 2, 3, 4)},
        "quadratic": {"pde"},
        "gauss_legendre": {"pde"},
    }.get(name, set())
    assert set(base) == {"loss", "data"} | expected
    if name == "pinn":
        assert base["loss"] == pytest.approx(base["data"] + base["pde"] + base["ic"], rel=1e-5)
        assert terms(lambda_pde=10.0)["loss"] - base["loss"] == pytest.approx(9 * base["pde"], rel=1e-4)
        model.physics_share.fill_(0.5)
        assert terms()["loss"] == pytest.approx(base["data"] + 0.5 * (base["pde"] + base["ic"]), rel=1e-5)


def test_the_derivative_along_the_leg_is_exact(prepared):
    model = prepared_model("pinn", prepared).double()
    inputs = prepared[1].splits["test"]["inputs"][:20].double()
    zeta, h = torch.full((20, 1), 0.4, dtype=torch.float64), 1e-5
    _, along = torch.func.jvp(lambda s: model.trajectory(inputs, s), (zeta,), (torch.ones_like(zeta),))
    brute = (model.trajectory(inputs, zeta + h) - model.trajectory(inputs, zeta - h)) / (2 * h)
    assert torch.allclose(along, brute, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_short_training_learns_and_is_deployed(name, prepared):
    config, data = prepared
    model = prepared_model(name, prepared)
    train = TracksTrain(
        epochs=3, batch_size=100, n_collocation=2, optimizer=OptimizerConfig(learning_rate=4e-3), steps_per_epoch=40
    )
    seen = []
    before = float(SYSTEM.plan(model, data, model_config(name, config), train, 0).validate(model)["loss"])
    result = fit(
        model,
        SYSTEM.plan(model, data, model_config(name, config, size="tiny"), train, 0),
        seed=0,
        train=train,
        callbacks=[lambda event: seen.append(event.metrics) if event.moment == "epoch_end" else None],
    )
    assert result.status == "done"
    assert result.best_value < before
    assert {"position_mean_mm", "slope_mean"} <= set(seen[-1]["validation"])
    out = SYSTEM.deploy(model)
    example = out.inputs["state"]
    assert example.shape[1] == 7 and len(example) >= 2 and out.outputs == ("extrapolated",)
    assert torch.allclose(out.module(example[:1]), out.module(example)[:1], rtol=1e-5, atol=1e-3)


def test_contenders_and_columns(prepared):
    config, data = prepared
    model = prepared_model("residual", prepared)
    test = data.splits["test"]
    rows = evaluate_all(
        (*SYSTEM.baselines(data), SYSTEM.surrogate(model, data)), test, SYSTEM.score, len(test["inputs"])
    )
    kinds = [row["kind"] for row in rows]
    assert kinds.count("nothing") == 1 and kinds.count("baseline") >= 6 and kinds[-1] == "surrogate"
    assert all(set(SYSTEM.terms.columns) <= set(row) and row["cost_us"] > 0 for row in rows)
    by_name = {row["contender"]: row["position_mean_mm"] for row in rows}
    assert by_name["RK4 32 steps"] < by_name["RK4 8 steps"] < by_name["RK4 2 steps"] < by_name["straight line"]
    off = {row["contender"]: SYSTEM.score({"state": test["target"] + row["position_mean_mm"]}, test) for row in rows}
    assert len([name for name, _, table in SYSTEM.figures(off, data) if len(table)]) >= 3


def test_labels_are_not_needed(prepared):
    """Gauss-Legendre stages learn from the field alone; the labels only judge."""
    config, data = prepared
    if config is not FIXED:
        pytest.skip("shown on the fixed leg")
    model = prepared_model("gauss_legendre", prepared, stages=10)
    train = TracksTrain(
        epochs=5,
        batch_size=256,
        lambda_data=0.0,
        physics_warmup_epochs=0,
        steps_per_epoch=120,
        optimizer=OptimizerConfig(name="soap", learning_rate=4e-3, weight_decay=0.0),
    )
    terms = []
    fit(
        model,
        SYSTEM.plan(model, data, model_config("gauss_legendre", config, size="tiny"), train, 0),
        seed=0,
        train=train,
        callbacks=[lambda event: terms.append(event.metrics["train"]) if event.moment == "epoch_end" else None],
    )
    assert terms[-1]["pde"] < 0.05 * terms[0]["pde"] and terms[-1]["loss"] == pytest.approx(terms[-1]["pde"])


@pytest.mark.parametrize("name", ["residual", "kick", "binned"])  # a network alone, with a table of the field, a table
def test_b2_onnx_has_everything_inside(name, prepared, tmp_path):
    config, data = prepared
    if config is not FIXED:
        pytest.skip("one kind of legs is enough for an export")
    states = data.splits["train"]["inputs"].repeat(4, 1)[:10_000]
    out = SYSTEM.deploy(prepared_model(name, prepared))
    export_onnx(out, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for rows in (states, states[:1], states[:7]):
        with torch.no_grad():
            expected = out.module(rows).numpy()
        found = session.run(["extrapolated"], {"state": rows.numpy()})[0]
        scale = np.maximum(np.abs(expected), [100.0, 100.0, 0.1, 0.1])
        assert found.shape == expected.shape and (np.abs(found - expected) / scale).max() < 1e-5


def test_kicks_on_variable_legs_fall_with_the_square_of_the_bend():
    """A surrogate that is wrong by the same kicks at every momentum leaves stiff tracks to the tables."""
    frame = AxisFrame(variable=True).double()
    frame.fit({}, LHCbLikeField())
    inputs = torch.tensor(
        [[100.0, 50.0, 0.1, 0.05, q_over_p, 2665.0, 5161.0] for q_over_p in (0.02, 0.002)], dtype=torch.float64
    )
    silent, wrong = torch.zeros(2, 4).double(), torch.full((2, 4), 0.01).double()
    moved = (frame.state(inputs, wrong) - frame.state(inputs, silent)).abs()
    assert torch.allclose(moved[0] / moved[1], torch.full((4,), 100.0).double(), rtol=0.05)
