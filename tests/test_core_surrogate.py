"""What a surrogate does with inputs that it has no answer for, on the untrained networks of all systems."""

import dataclasses
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_surrogates.core.errors import ConfigError
from thesis_surrogates.core.export.deployable import Deployable, as_tuple
from thesis_surrogates.core.surrogate import Surrogate, input_table
from thesis_surrogates.running.registry import get_system, resolve


def untrained(system_name: str, model_name: str = "", **data: object) -> Surrogate:
    system = get_system(system_name)
    config = resolve({"system": system_name, "model": model_name or next(iter(system.models)), "data": data})
    model = config.model.build(config.data).eval()
    return Surrogate(config, model, system.deploy(model))


def example_arrays(surrogate: Surrogate) -> list[np.ndarray]:
    return [value.numpy().copy() for value in surrogate.deployable.inputs.values()]


def example_table(surrogate: Surrogate) -> pd.DataFrame:
    flat = [array.reshape(len(array), -1).astype(float) for array in example_arrays(surrogate)]
    return pd.DataFrame(np.concatenate(flat, 1), columns=list(surrogate.inputs.column))


def named(surrogate: Surrogate, answer: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return answer if isinstance(answer, dict) else {surrogate.deployable.outputs[0]: answer}


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("wrong, kind", [(8, np.int64), (-1, np.int64), (300, np.uint16), (3.5, float), (1e30, float)])
def test_a_type_outside_of_the_vocabulary_is_named_with_its_row(wrong, kind):
    surrogate = untrained("events")
    particles, types = example_arrays(surrogate)
    types = types.astype(kind)
    types[3, 5] = wrong
    value = re.escape(f"{wrong:g}")
    with pytest.raises(ConfigError, match=rf"type_ids: row 3 has type_5 = {value} .* whole numbers from 0 to 7"):
        surrogate.predict(particles, types)
    table = example_table(surrogate)
    table.loc[3, "type_5"] = wrong
    with pytest.raises(ConfigError, match=rf"row 3 has type_5 = {value} "):
        surrogate.predict(table)


def test_a_row_that_is_not_finite_is_answered_nan_whatever_its_types(system_name):
    surrogate = untrained(system_name)
    table = example_table(surrogate)
    table.iloc[1, -1] = np.inf
    with pytest.warns(UserWarning, match=f"1 of {len(table)} rows are answered NaN: 1 with inputs"):
        found = named(surrogate, surrogate.predict(table))
    assert all(np.isnan(array[1]).all() and np.isfinite(array[0]).all() for array in found.values())


class Singular(torch.nn.Module):
    """1 / x, and which x is positive."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1 / x, (x > 0).long()


def one_warning(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    assert [entry.category for entry in caught] == [UserWarning]
    return found, str(caught[0].message)


def test_results_that_are_not_finite_are_counted_in_the_same_warning():
    deployable = Deployable(module=Singular(), inputs={"x": torch.ones(2, 2)}, outputs=("inverse", "sign"))
    surrogate = dataclasses.replace(untrained("tracks"), deployable=deployable)
    rows = np.array([[1.0, 2.0], [0.0, 1.0], [np.nan, 1.0], [1.0, -4.0], [1.0, 0.0]])
    found, message = one_warning(lambda: surrogate.predict(rows, batch_size=2))
    assert (
        message == "3 of 5 rows are answered NaN: 1 with inputs that are not finite, 2 with results that are not finite"
    )
    np.testing.assert_array_equal(found["inverse"][[0, 3]], [[1, 0.5], [1, -0.25]])
    np.testing.assert_array_equal(found["sign"][[0, 3]], [[1, 1], [1, 0]])
    assert all(np.isnan(array[[1, 2, 4]]).all() for array in found.values())


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_each_network_answers_nan_where_it_overflows(system_name, value):
    for model_name in get_system(system_name).models:
        surrogate = untrained(system_name, model_name)
        arrays = example_arrays(surrogate)
        arrays[0][1] = value
        with torch.no_grad():
            raw = as_tuple(surrogate.deployable.module(*map(torch.from_numpy, arrays)))
        overflowed = not all(torch.isfinite(values[1]).all() for values in raw)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = named(surrogate, surrogate.predict(*arrays))
        rows = f"1 of {len(arrays[0])} rows are answered NaN: 1 with results that are not finite"
        assert [str(entry.message) for entry in caught] == [rows] * overflowed
        assert all(
            np.isnan(values[1]).all() == overflowed and np.isfinite(values[0]).all() for values in found.values()
        )


def test_a_mapping_is_taken_like_a_table(system_name):
    surrogate = untrained(system_name)
    arrays, table = example_arrays(surrogate), example_table(surrogate)
    wanted = named(surrogate, surrogate.predict(table))
    columns = {name: table[name].to_numpy() for name in table}
    assert_equal(named(surrogate, surrogate.predict(columns)), wanted)
    lists = {"remark": ["any", "length"], **{name: list(values) for name, values in columns.items()}}
    assert_equal(named(surrogate, surrogate.predict(lists)), wanted)
    by_input = dict(zip(reversed(surrogate.deployable.inputs), reversed(arrays), strict=True))
    assert_equal(named(surrogate, surrogate.predict(by_input)), wanted)


def test_numbers_in_a_mapping_are_one_row_or_the_same_in_all_rows(system_name):
    surrogate = untrained(system_name)
    table = example_table(surrogate)
    first = {name: float(table[name].iloc[0]) for name in table}
    assert_equal(named(surrogate, surrogate.predict(first)), named(surrogate, surrogate.predict(table.iloc[:1])))
    one = str(table.columns[0])
    varied = table.iloc[[0, 0, 0]].assign(**{one: [first[one], first[one] * 1.01, first[one] * 1.02]})
    assert_equal(
        named(surrogate, surrogate.predict(first | {one: varied[one].to_numpy()})),
        named(surrogate, surrogate.predict(varied)),
    )


def test_what_a_mapping_lacks_is_named(system_name):
    surrogate = untrained(system_name)
    columns = {name: values.to_numpy() for name, values in example_table(surrogate).items()}
    missing = str(surrogate.inputs.column[0])
    renamed = {f"{name}s" if name == missing else name: values for name, values in columns.items()} | {"run": [7]}
    with pytest.raises(
        ConfigError, match=f"no column '{missing}'.*nearest: '{missing}s'.*; not needed: '{missing}s', 'run'$"
    ):
        surrogate.predict(renamed)
    with pytest.raises(
        ConfigError, match=rf"column '{missing}' has the shape \[1\], others have {len(columns[missing])} rows"
    ):
        surrogate.predict(columns | {missing: columns[missing][:1]})
    with pytest.raises(ConfigError, match=missing):
        surrogate.predict(columns | {missing: columns[missing][:, None]})
    with pytest.raises(ConfigError, match="holds no numbers"):
        surrogate.predict(columns | {missing: ["many"] * len(columns[missing])})


def test_no_range_is_minus_zero(system_name):
    data = {"x_half": 0.0} if system_name == "tracks" else {}
    shown = repr(untrained(system_name, **data))
    assert "-0 " not in shown and "-0\n" not in shown
    deployable = Deployable(module=Singular(), inputs={"x": torch.ones(2, 1)}, outputs=("inverse", "sign"))
    table = input_table(deployable, {"x_0": (-0.0, -0.0)})
    assert not np.signbit(table[["lowest", "highest"]].to_numpy()).any()


def test_no_rows_are_no_answers(system_name):
    surrogate = untrained(system_name)
    arrays = [array[:0] for array in example_arrays(surrogate)]
    found = [
        named(surrogate, surrogate.predict(*arrays)),
        named(surrogate, surrogate.predict(example_table(surrogate)[:0])),
    ]
    assert all(len(array) == 0 for answer in found for array in answer.values())


def tolerant(system_name: str) -> Surrogate:
    """Untrained and without scales, so that its numbers are large and their last digits are not asked for."""
    surrogate = untrained(system_name)
    return dataclasses.replace(surrogate, deployable=dataclasses.replace(surrogate.deployable, tolerance=1e-3))


@pytest.mark.parametrize("name", ["tracks", "events"])  # one table of numbers; numbers and words
def test_onnx_answers_as_torch_does_also_what_has_no_answer(name):
    surrogate = tolerant(name)
    arrays = example_arrays(surrogate)
    for given in ([array[:1] for array in arrays], arrays, [array.astype(float) for array in arrays]):
        wanted = named(surrogate, surrogate.predict(*given))
        found = named(surrogate, surrogate.predict(*given, runtime="onnx"))
        for output, right in wanted.items():
            np.testing.assert_allclose(found[output], right, rtol=1e-3, atol=1e-4 * np.abs(right).max())
    arrays = [np.resize(array, (3, *array.shape[1:])) for array in arrays]
    place = next(k for k, array in enumerate(arrays) if array.dtype.kind == "f")
    for broken in (np.nan, np.inf, 1e39):
        wrong = [array.astype(float) if k == place else array for k, array in enumerate(arrays)]
        wrong[place].reshape(3, -1)[1, 0] = broken
        with pytest.warns(UserWarning, match="1 of 3 rows are answered NaN: 1 with inputs that are not finite") as seen:
            answers = named(surrogate, surrogate.predict(*wrong, runtime="onnx"))
        assert seen[0].filename == __file__
        for answer in answers.values():
            assert np.isnan(answer[1]).all() and np.isfinite(answer[[0, 2]]).all()


def test_what_onnx_does_not_take_as_it_stands_goes_the_careful_way():
    surrogate = tolerant("tracks")
    (rows,) = example_arrays(surrogate)
    table = example_table(surrogate)
    wanted = surrogate.predict(rows, runtime="onnx")
    backwards = np.asfortranarray(rows)
    for given in (table, rows.tolist(), backwards):
        np.testing.assert_allclose(surrogate.predict(given, runtime="onnx"), wanted, rtol=1e-5, atol=1e-4)
    assert surrogate.predict(rows[:0], runtime="onnx").shape == (0, 4)
    with pytest.raises(ConfigError, match=r"expected shape \[N, 7\]"):
        surrogate.predict(rows[:, :6], runtime="onnx")
    with pytest.raises(ConfigError, match="takes mm"):
        surrogate.predict(rows, units={"x": "cm"}, runtime="onnx")
    with pytest.raises(ConfigError, match=r"runtime='onx': no such runtime.*onnx"):
        surrogate.predict(rows, runtime="onx")
