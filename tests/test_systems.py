"""The contract that every system fills, checked on all of them and on all of their models."""

import dataclasses
import warnings
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_surrogates.core.comparison import score_all
from thesis_surrogates.core.config import TrainConfig
from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.export.onnx import export_onnx
from thesis_surrogates.core.export.torch_programs import export_torchscript
from thesis_surrogates.core.facts import KINDS
from thesis_surrogates.core.surrogate import Surrogate
from thesis_surrogates.core.system import System
from thesis_surrogates.core.training import fit
from thesis_surrogates.running.datasets import ensure_dataset
from thesis_surrogates.running.execution import load_surrogate, new_model, run
from thesis_surrogates.running.registry import SYSTEMS, get_system, list_suites, load_suite

# What a surrogate takes, [N, columns], from the training split of its system and the configuration of the data.
INPUTS = {
    "tracks": lambda split, data: split["inputs"],
    "orbits": lambda split, data: (split["state"] * data.units.state_scale(split["state"])).flatten(0, -2),
    "flavor": lambda split, data: split["f4_initial"].flatten(1),
    "events": lambda split, data: split["particles"].flatten(1),
}
MODELS = [(name, config.name) for name in SYSTEMS for config in load_suite(f"{name}/smoke")]


def prepared(name, run_name, data_dir):
    """System, configuration, data and a fresh model with fitted scalers."""
    system = get_system(name)
    config = next(entry for entry in load_suite(f"{name}/smoke") if entry.name == run_name)
    data = system.load_data(config.data, ensure_dataset(system, config.data, data_dir))
    model = new_model(config)
    system.plan(model, data, config.model, config.train, config.seed)  # its first line fills the scales
    return system, config, data, model


def test_the_record_is_complete(system_name):
    system = get_system(system_name)
    assert system.name == system_name and system.title and system.question.endswith("?")
    assert {system.terms.headline, *system.terms.group} <= set(system.terms.columns) and issubclass(
        system.train_config, TrainConfig
    )
    assert all(symbol.unit and symbol.meaning for symbol in system.symbols) and len(system.symbols) >= 4
    assert all(config().name == name for name, config in system.models.items())


def test_the_record_stays_one_page():
    assert len(dataclasses.fields(System)) <= 23, "a field more asks every system: what of it follows from another one?"


def test_the_smoke_suite_has_every_model(system_name):
    assert {config.model.name for config in load_suite(f"{system_name}/smoke")} == set(get_system(system_name).models)


def test_every_shipped_suite_is_valid(system_name):
    for name in list_suites(system_name):
        assert load_suite(name), name


@pytest.mark.parametrize("name, run_name", MODELS)
def test_every_model_trains_and_every_parameter_takes_part(name, run_name, data_dir):
    system, config, data, model = prepared(name, run_name, data_dir)
    plan = system.plan(model, data, config.model, config.train, config.seed)
    moved = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
    for phase in plan.phases:
        if phase.on_start is not None:
            before = {key: p.detach().clone() for key, p in model.named_parameters()}
            with torch.no_grad():
                phase.on_start(model.train())
            moved = {
                key: moved[key] + (p.detach() - before[key]).abs() for key, p in model.named_parameters()
            }  # solved, not descended
        for update in phase.updates:
            for batch in islice(phase.source.batches(), 3):
                terms = update.loss_terms(model, batch)
                assert all(torch.isfinite(value) for value in terms.values()), (phase.name, terms)
                model.zero_grad()
                terms["loss"].backward()
                for key, p in model.named_parameters():
                    moved[key] += 0 if p.grad is None else p.grad.abs()
                with torch.no_grad():  # a step, for layers that start at zero and hide those before them
                    for p in model.parameters():
                        p -= 0 if p.grad is None else 1e-3 * p.grad / (1e-12 + p.grad.norm())
    still = [
        key for key, total in moved.items() if not total.any() and dict(model.named_parameters())[key].requires_grad
    ]
    assert not still, f"no gradient ever reaches {still}"


def test_a_system_deploys_what_agrees(system_name, data_dir, tmp_path):
    """The first model of the smoke suite as a run prepares it, with one entry point; test_export_rows.py has all."""
    system, _, _, model = prepared(system_name, load_suite(f"{system_name}/smoke")[0].name, data_dir)
    deployable = system.deploy(model.eval())
    deployable = dataclasses.replace(deployable, entry_points=dict(islice(deployable.entry_points.items(), 1)))
    assert all(len(value) >= 2 for value in deployable.inputs.values())
    export_onnx(deployable, tmp_path / "model.onnx")
    export_torchscript(deployable, tmp_path / "model.ts")
    assert {path.suffix for path in tmp_path.iterdir()} >= {".onnx", ".ts"}


def test_the_contenders_are_of_the_known_kinds(system_name, data_dir):
    first = load_suite(f"{system_name}/smoke")[0]
    system, _, data, model = prepared(system_name, first.name, data_dir)
    contenders = (*system.baselines(data), system.surrogate(model.eval(), data))
    kinds = {contender.kind for contender in contenders}
    assert {"nothing", "surrogate"} < kinds <= set(KINDS)
    listed = {contender.name for contender in contenders if contender.kind == "reference"}
    assert listed <= {*system.terms.references, "Box3D"}, "older facts call it classical: the record lists it"
    scores = score_all(contenders, data.splits["test"], system.score)
    for contender in contenders:
        assert np.isfinite(scores[contender.title].metrics[system.terms.headline]), contender.title
        missing = set(system.terms.columns) - set(scores[contender.title].metrics)
        assert not missing, f"{contender.name} has no {missing}"


def test_scoring_the_truth_gives_a_better_headline_than_nothing(smoke_runs, system_name):
    rows = smoke_runs(system_name).evaluated
    headline = get_system(system_name).terms.headline
    others = min(row[headline] for row in rows if row["kind"] in ("baseline", "reference"))
    nothing = min(row[headline] for row in rows if row["kind"] == "nothing")
    assert others <= nothing


def test_the_same_run_gives_the_same_numbers_twice(smoke_runs, system_name, data_dir, tmp_path):
    first = smoke_runs(system_name)
    again = run(first.config, out=tmp_path, data_dir=data_dir)
    value = first.scalars[first.scalars.split == "validation"].value.to_numpy()
    assert np.array_equal(value, again.scalars[again.scalars.split == "validation"].value.to_numpy())
    headline = get_system(system_name).terms.headline
    ours, theirs = ([row[headline] for row in facts.evaluated] for facts in (first, again))
    assert ours == theirs


def test_a_dataset_is_the_same_bytes_for_the_same_seed(system_name, tmp_path):
    system, config = get_system(system_name), load_suite(f"{system_name}/smoke")[0]
    fingerprints = set()
    for name, data in (("a", config.data), ("b", config.data), ("c", config.data.model_copy(update={"seed": 99}))):
        system.make_data(data, tmp_path / f"{name}.h5")
        fingerprints.add(system.load_data(data, tmp_path / f"{name}.h5").fingerprint)
    assert len(fingerprints) == 2


def test_a_trained_model_is_loaded_and_used(smoke_runs, system_name):
    surrogate = load_surrogate(smoke_runs(system_name).path)
    inputs = [value.numpy() for value in surrogate.deployable.inputs.values()]
    result = surrogate.predict(*inputs)
    arrays = list(result.values()) if isinstance(result, dict) else [result]
    assert len(arrays) == len(surrogate.deployable.outputs)
    assert all(len(array) == len(inputs[0]) and np.isfinite(array).all() for array in arrays)
    single = surrogate.predict(*(value[:1] for value in inputs))
    ones = list(single.values()) if isinstance(single, dict) else [single]
    for one, many in zip(ones, arrays, strict=True):
        np.testing.assert_allclose(one[0], many[0], rtol=2e-4, atol=1e-5 * np.abs(many).max())


def example_table(surrogate):
    """The example inputs of a surrogate as arrays and as one table."""
    arrays = [value.numpy() for value in surrogate.deployable.inputs.values()]
    flat = np.concatenate([array.reshape(len(array), -1).astype(float) for array in arrays], 1)
    return arrays, pd.DataFrame(flat, columns=list(surrogate.inputs.column))


def named(surrogate, answer):
    return answer if isinstance(answer, dict) else dict(zip(surrogate.deployable.outputs, [answer], strict=True))


def test_a_surrogate_says_what_its_inputs_are(smoke_runs, system_name):
    surrogate = load_surrogate(smoke_runs(system_name).path)
    inputs, examples = surrogate.inputs, surrogate.deployable.inputs
    assert set(surrogate.deployable.columns) >= set(examples), "a system names the columns of each of its inputs"
    assert {name: len(rows) for name, rows in inputs.groupby("input")} == {
        name: value[0].numel() for name, value in examples.items()
    }
    assert inputs.column.is_unique and inputs.unit.str.len().all()
    assert (
        inputs.lowest.isna() | inputs.highest.isna() | (inputs.lowest <= inputs.highest)
    ).all() and inputs.lowest.notna().any()
    for text in (repr(surrogate), surrogate._repr_html_()):
        assert all(
            word in text
            for word in (*examples, *surrogate.deployable.outputs, inputs.column[0], inputs.unit[0], "batch")
        )
        assert text.count("\n") < 100 and len(text) < 6000
    assert repr(surrogate).count("\n") < 13


def test_the_range_of_the_inputs_holds_the_training_data(system_name, data_dir):
    system = get_system(system_name)
    config = load_suite(f"{system_name}/smoke")[0]
    table = Surrogate(config, new_model(config), system.deploy(new_model(config))).inputs.set_index("column")
    split = system.load_data(config.data, ensure_dataset(system, config.data, data_dir)).splits["train"]
    values = INPUTS[system_name](split, config.data).double().numpy()
    known = table.iloc[: values.shape[1]]
    slack = 1e-6 * np.nan_to_num(np.abs(known[["lowest", "highest"]].to_numpy(float)), nan=0.0).max(1) + 1e-9
    assert not (np.nanmin(values, 0) < known.lowest - slack).any(), known[np.nanmin(values, 0) < known.lowest - slack]
    assert not (np.nanmax(values, 0) > known.highest + slack).any(), known[np.nanmax(values, 0) > known.highest + slack]


def test_a_table_gives_the_answers_of_arrays(smoke_runs, system_name):
    surrogate = load_surrogate(smoke_runs(system_name).path)
    arrays, table = example_table(surrogate)
    wanted = named(surrogate, surrogate.predict(*arrays))
    shuffled = table.iloc[:, ::-1].assign(remark="any")
    shuffled.index = ["row"] * len(table)
    found = named(surrogate, surrogate.predict(shuffled))
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    missing = surrogate.inputs.column[0]
    with pytest.raises(ConfigError, match=f"no column '{missing}'.*nearest: '{missing}s'"):
        surrogate.predict(table.rename(columns={missing: f"{missing}s"}))
    with pytest.raises(ConfigError, match="holds no numbers"):
        surrogate.predict(table.astype({missing: object}).replace({missing: {table[missing].iloc[0]: "many"}}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_come_back_nan_in_their_place(smoke_runs, system_name, bad):
    surrogate = load_surrogate(smoke_runs(system_name).path)
    arrays, table = example_table(surrogate)
    table = pd.concat([table] * 40, ignore_index=True)
    wanted = named(surrogate, surrogate.predict(table, batch_size=16))
    rows = [3, 17, 31]
    table.iloc[rows, [0, 1, len(table.columns) - 1]] = bad
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = named(surrogate, surrogate.predict(table, batch_size=16))
    assert [str(entry.message) for entry in caught] == [
        f"3 of {len(table)} rows are answered NaN: 3 with inputs that are not finite"
    ]
    assert caught[0].filename == __file__
    good = np.setdiff1d(np.arange(len(table)), rows)
    for name in wanted:
        assert found[name].shape == wanted[name].shape and np.isnan(found[name][rows]).all()
        np.testing.assert_array_equal(found[name][good], wanted[name][good])


def test_arrays_of_any_kind_are_taken_without_a_warning(smoke_runs):
    surrogate = load_surrogate(smoke_runs("tracks").path)
    state = next(iter(surrogate.deployable.inputs.values())).numpy()
    wanted, frozen = surrogate.predict(state), state.astype(np.float64)
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (
            frozen,
            state[::-1][::-1],
            np.asfortranarray(state),
            state.tolist(),
            torch.from_numpy(state),
            frozen.astype(">f8"),
        ):
            np.testing.assert_array_equal(surrogate.predict(value), wanted)
        assert surrogate.predict(state[:0]).shape == (0, 4)
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert np.isnan(surrogate.predict(np.where([[True], [False]], frozen, 1e300))[1]).all()
    for wrong in (state[:, :5], state[0], np.full((2, 7), "a")):
        with pytest.raises(ConfigError, match=r"expected shape \[N, 7\] \(x \[mm\], y \[mm\]"):
            surrogate.predict(wrong)


def test_inputs_of_different_lengths_are_named(smoke_runs):
    surrogate = load_surrogate(smoke_runs("events").path)
    particles, types = (value.numpy() for value in surrogate.deployable.inputs.values())
    with pytest.raises(ConfigError, match="as many rows"):
        surrogate.predict(particles, types[:3])


def test_training_on_goes_through_a_pause(smoke_runs, system_name, data_dir, tmp_path):
    whole = smoke_runs(system_name)
    for _ in range(400):
        pieces = run(whole.config, out=tmp_path, data_dir=data_dir, budget_seconds=0.2)
        if pieces.status == "done":
            break
    assert pieces.status == "done"
    key = lambda facts: (
        facts.scalars[facts.scalars.split == "validation"].set_index(["epoch", "metric"]).value.sort_index()
    )  # noqa: E731
    assert key(whole).equals(key(pieces))


def test_the_loop_is_the_only_one(system_name, data_dir):
    """GAN, curriculum, two streams: whatever a system needs, its plan runs in core.training.fit."""
    first = load_suite(f"{system_name}/smoke")[0]
    system, config, data, model = prepared(system_name, first.name, data_dir)
    plan = system.plan(model, data, config.model, config.train, config.seed)
    one_step = {"steps": 1, "validate_every": 1, "epochs": None, "steps_per_epoch": None}
    short = dataclasses.replace(plan, phases=tuple(dataclasses.replace(phase, **one_step) for phase in plan.phases))
    assert fit(model, short, seed=0, train=config.train).status == "done"
