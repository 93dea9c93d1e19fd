"""Acceptance numbers and symmetries of the track physics, against a right-hand side and a stepper written elsewhere
(scipy).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from thesis_surrogates.tracks import steppers
from thesis_surrogates.tracks.field import (
    DipoleField,
    FieldError,
    GaussianField,
    GridField,
    LHCbLikeField,
    UniformField,
    make_field,
)
from thesis_surrogates.tracks.field_map import TWODIP_GRID, read_binary_map, read_image, write_binary_map, write_npz_map
from thesis_surrogates.tracks.map_error import interpolation_error, pitch_scan, sample_box
from thesis_surrogates.tracks.propagation import (
    CURVATURE,
    field_lookups,
    helix,
    liouville_ratio,
    propagate,
    propagate_with_jacobian,
)
from thesis_surrogates.tracks.steppers import cash_karp_batch, rk4_batch

S1, S2 = np.zeros(4), np.array([150.0, -100.0, 0.05, -0.08])
FIELDS = [UniformField(-1.0), GaussianField(), DipoleField(), LHCbLikeField(), LHCbLikeField(polarity=-1)]
METHODS = [("rk4", {"step": 5.0}), ("cash_karp", {"tolerance": 1e-9})]


def dop853(start, q_over_p, z0, z1, field, planes=()):
    """Reference trajectory; restarted at planes where the field is not smooth."""

    def slope(z, v):
        bx, by, bz = (float(b) for b in field(v[0], v[1], z))
        x, y, tx, ty = v
        k = 0.299792458e-3 * q_over_p * np.sqrt(1 + tx**2 + ty**2)
        return [
            tx,
            ty,
            k * (tx * ty * bx - (1 + tx**2) * by + ty * bz),
            k * ((1 + ty**2) * bx - tx * ty * by - tx * bz),
        ]

    stops = sorted(p for p in planes if min(z0, z1) < p < max(z0, z1))
    v = np.asarray(start, dtype=float)
    for a, b in zip([z0, *stops[:: 1 if z1 > z0 else -1]], [*stops[:: 1 if z1 > z0 else -1], z1], strict=True):
        v = solve_ivp(slope, (a, b), v, method="DOP853", rtol=2.3e-14, atol=1e-13).y[:, -1]
    return v


def test_a1_the_constant_and_the_helix():
    assert abs(1 / (CURVATURE / 10) - 33356.40951982) < 1e-7
    for method, options in METHODS:
        end = propagate(S1[None], 0.1, 0.0, 4000.0, UniformField(-1.0), method=method, **options)[0]
        assert abs(end[0] - 240.7024300728) < 1e-8 and abs(end[2] - 0.1207886030988) < 1e-12


def test_a2_gaussian():
    end = propagate(S1[None], 0.1, 4000.0, 12000.0, GaussianField(), step=5.0)[0]
    np.testing.assert_allclose(end, [593.8272058823, 0, 0.09627228961914, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method,options", METHODS)
def test_a3_two_dipoles(method, options):
    end = propagate(S1[None], 0.1, 4000.0, 12000.0, DipoleField(), method=method, **options)[0]
    assert abs(end[0] - 595.7348841) < 1e-6 and abs(end[2] - 0.09635092292) < 1e-9 and end[1] == end[3] == 0


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"{type(f).__name__}{f.polarity:+d}")
@pytest.mark.parametrize("leg,q_over_p", [((4000.0, 12000.0), 0.3), ((7826.0, 2665.0), -0.1)])
def test_all_fields_against_dop853(field, leg, q_over_p):
    expected = dop853(S2, q_over_p, *leg, field, field.planes)
    for method, options in METHODS:
        end = propagate(S2[None], q_over_p, *leg, field, method=method, **options)[0]
        np.testing.assert_allclose(end[:2], expected[:2], rtol=0, atol=1e-7)
        np.testing.assert_allclose(end[2:], expected[2:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("field", [DipoleField(), GaussianField(), LHCbLikeField()], ids=lambda f: type(f).__name__)
def test_a4_fourth_order(field):
    reference = propagate(S2[None], 0.2, 4000.0, 12000.0, field, step=1.0)
    steps = [250.0, 125.0, 62.5, 31.25]
    errors = [np.abs(propagate(S2[None], 0.2, 4000.0, 12000.0, field, step=h) - reference)[0, :2].max() for h in steps]
    ratios = np.divide(errors[:-1], errors[1:])
    assert (ratios[1:] > 14).all() and (ratios[1:] < 18).all(), ratios


def test_a4_five_millimetre_steps_agree_with_dop853():
    end = propagate(S2[None], 0.2, 4000.0, 12000.0, DipoleField(), step=5.0)[0]
    assert np.abs(end - dop853(S2, 0.2, 4000.0, 12000.0, DipoleField())).max() < 2e-10 * 5


def test_a5_out_and_back_and_split_legs():
    for start, q in ((S1, 0.1), (S2, -0.2)):
        there = propagate(start[None], q, 4000.0, 12000.0, DipoleField(), step=100.0)
        assert np.abs(propagate(there, q, 12000.0, 4000.0, DipoleField(), step=100.0)[0] - start).max() < 1e-7
    whole = propagate(S2[None], 0.2, 3000.0, 9000.0, LHCbLikeField(), step=10.0)
    half = propagate(S2[None], 0.2, 3000.0, 5321.0, LHCbLikeField(), step=10.0)
    assert np.abs(propagate(half, 0.2, 5321.0, 9000.0, LHCbLikeField(), step=10.0) - whole).max() < 1e-8


@pytest.mark.parametrize("method", ["rk4", "cash_karp"])
def test_a6_no_charge_is_a_straight_line(method):
    end = propagate(S2[None], 0.0, 4000.0, 12000.0, DipoleField(), method=method)
    np.testing.assert_allclose(end[0], [550, -740, 0.05, -0.08], rtol=1e-12)


track = st.tuples(st.floats(-300, 300), st.floats(-250, 250), st.floats(-0.15, 0.15), st.floats(-0.15, 0.15))
charge = st.floats(-0.33, 0.33)


@settings(max_examples=40, deadline=None)
@given(track, charge, st.sampled_from([DipoleField, LHCbLikeField, GaussianField]))
def test_a6_symmetries(state, q_over_p, kind):
    start = np.array([state])
    end = propagate(start, q_over_p, 4000.0, 12000.0, kind(), step=100.0)
    for signs, charge_sign, polarity in (([-1, 1, -1, 1], -1, 1), ([1, -1, 1, -1], 1, 1), ([1, 1, 1, 1], -1, -1)):
        image = propagate(start * signs, charge_sign * q_over_p, 4000.0, 12000.0, kind(polarity=polarity), step=100.0)
        assert np.abs(image - end * signs).max() < 1e-9


@settings(max_examples=25, deadline=None)
@given(track, charge, st.floats(0, 13000), st.floats(-6000, 6000), st.sampled_from([DipoleField(), LHCbLikeField()]))
def test_a7_liouville_holds_everywhere(state, q_over_p, z0, dz, field):
    start = np.array([state])
    end, jacobian = propagate_with_jacobian(start, q_over_p, z0, z0 + dz, field)
    if np.isfinite(end).all():
        assert abs(liouville_ratio(start, end, jacobian)[0] - 1) < 1e-6
    assert np.array_equal(jacobian[0, 4], [0, 0, 0, 0, 1])


def test_a7_determinant_and_differences():
    end, jacobian = propagate_with_jacobian(S1[None], 0.1, 4000.0, 12000.0, DipoleField(), step=20.0)
    assert abs(np.linalg.det(jacobian[0, :4, :4]) - 1.018653184) < 1e-8
    for field in (DipoleField(), LHCbLikeField()):
        _, jacobian = propagate_with_jacobian(S2[None], -0.2, 3000.0, 9000.0, field, step=50.0)
        for column, size in enumerate([1.0, 1.0, 1e-4, 1e-4, 1e-4]):
            move = np.zeros(5)
            move[column] = size
            ends = [
                propagate((S2 + s * move[:4])[None], -0.2 + s * move[4], 3000.0, 9000.0, field, step=50.0)[0]
                for s in (2, 1, -1, -2)
            ]
            brute = (-ends[0] + 8 * ends[1] - 8 * ends[2] + ends[3]) / (12 * size)
            np.testing.assert_allclose(jacobian[0, :4, column], brute, rtol=1e-6, atol=1e-6 * np.abs(brute).max())


def test_a7_python_field_and_grid_have_jacobians():
    plain = lambda x, y, z: (0 * x, 0 * x - 1.0, 0 * x)  # noqa: E731
    _, by_difference = propagate_with_jacobian(S2[None], 0.1, 0.0, 4000.0, plain, step=50.0)
    _, exact = propagate_with_jacobian(S2[None], 0.1, 0.0, 4000.0, UniformField(-1.0), step=50.0)
    np.testing.assert_allclose(by_difference, exact, rtol=1e-6, atol=1e-6)
    axes = tuple(np.linspace(low, high, n) for low, high, n in ((-800, 800, 9), (-800, 800, 9), (2000, 9000, 71)))
    grid = GridField.sample(LHCbLikeField(), axes)
    end, jacobian = propagate_with_jacobian(S2[None], 0.1, 2665.0, 7826.0, grid, step=10.0)
    close, smooth = propagate_with_jacobian(S2[None], 0.1, 2665.0, 7826.0, LHCbLikeField(), step=10.0)
    assert np.abs(end - close)[0, :2].max() < 2.0 and np.abs(jacobian - smooth).max() / np.abs(smooth).max() < 0.01


def test_a10_lhcb_reference_tracks():
    for p, x in zip((2.5, 3.125, 4.167, 6.25, 12.5), (820.83, 645.50, 477.99, 315.84, 157.09), strict=True):
        assert abs(propagate(S1[None], 1 / p, 3000.0, 7000.0, LHCbLikeField())[0, 0] - x) < 0.2


def test_python_field_agrees_with_compiled():
    rng = np.random.default_rng(0)
    tracks = rng.uniform([-300, -250, -0.15, -0.15], [300, 250, 0.15, 0.15], size=(30, 4))
    q = rng.uniform(-0.3, 0.3, 30)
    field = DipoleField()
    for method, options in (("rk4", {"step": 50.0}), ("cash_karp", {"tolerance": 1e-8})):
        python = propagate(tracks, q, 4000.0, 9000.0, lambda x, y, z: field(x, y, z), method=method, **options)
        assert np.abs(python - propagate(tracks, q, 4000.0, 9000.0, field, method=method, **options)).max() < 1e-5


def test_per_track_planes_and_counts():
    tracks, q = np.tile(S2, (3, 1)), np.array([0.1, 0.1, -0.1])
    z0, z1 = np.array([2665.0, 7826.0, 4000.0]), np.array([7826.0, 2665.0, 4000.0])
    end = propagate(tracks, q, z0, z1, LHCbLikeField())
    assert np.array_equal(end[2], S2)
    one = propagate(tracks[:1], q[:1], 2665.0, 7826.0, LHCbLikeField())
    assert np.array_equal(end[0], one[0])
    assert field_lookups(tracks[:1], q[:1], 0.0, 100.0, DipoleField(), step=10.0)[0] == 40


def test_a_curling_track_is_nan_not_nonsense():
    ends = propagate(np.zeros((2, 4)), np.array([5.0, 0.1]), 0.0, 4000.0, UniformField(-1.0))
    assert np.isnan(ends[0]).all() and np.isfinite(ends[1]).all()
    np.testing.assert_allclose(ends[1:], helix(np.zeros((1, 4)), np.array([0.1]), 4000.0, -1.0), atol=1e-8)


@pytest.mark.parametrize("method", ["rk4", "cash_karp"])
def test_a_curling_track_in_a_python_field_is_nan_too(method):
    plain = lambda x, y, z: (0 * x, 0 * x - 1.0, 0 * x)  # noqa: E731
    tracks, q = np.stack([S1, S2, S2, S1]), np.array([2.25, 0.1, -0.3, 5.0])
    for dz in (1500.0, -1500.0, np.array([1500.0, 0.0, 700.0, 20.0])):
        python = propagate(tracks, q, 0.0, dz, plain, method=method, tolerance=1e-7)
        compiled = propagate(tracks, q, 0.0, dz, UniformField(-1.0), method=method, tolerance=1e-7)
        assert (
            np.array_equal(np.isnan(python), np.isnan(compiled))
            and np.isnan(python[0]).all()
            and np.isfinite(python[1:3]).all()
        )
        np.testing.assert_allclose(python, compiled, rtol=0, atol=1e-5)
    assert np.isnan(propagate(tracks[:1], 2.25, 0.0, 1500.0, plain, method=method)).all()
    assert np.array_equal(
        propagate(20 * tracks, q, 0.0, 0.0, plain, method=method),
        propagate(20 * tracks, q, 0.0, 0.0, UniformField(-1.0), method=method),
    )
    _, jacobian = propagate_with_jacobian(tracks, q, 0.0, 1500.0, plain, method=method)
    assert np.isnan(jacobian[0, :4]).all() and np.isfinite(jacobian[1:3]).all()


def test_maxwell_of_the_closed_forms():
    rng = np.random.default_rng(1)
    r, h = rng.uniform([-300, -250, 1000], [300, 250, 9000], size=(50, 3)), 1.0
    for field, curl_limit in ((DipoleField(), 1e-8), (LHCbLikeField(), 2e-5)):

        def d(component, axis, field=field):
            e = h * np.eye(3)[axis]
            return (np.stack(field(*(r + e).T))[component] - np.stack(field(*(r - e).T))[component]) / (2 * h)

        assert np.abs(d(0, 0) + d(1, 1) + d(2, 2)).max() < 1e-8
        assert np.abs(d(2, 1) - d(1, 2)).max() < curl_limit


# ---- maps and their files

sizes = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 5))


@settings(max_examples=25, deadline=None)
@given(sizes, st.floats(-5000, 5000), st.floats(0.5, 200), st.integers(0, 2**31))
def test_binary_maps_keep_every_bit(shape, first, pitch, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.bin"
        axes = tuple(first + k + pitch * (k + 1) * np.arange(n) for k, n in enumerate(shape))
        values = np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)
        write_binary_map(path, axes, values)
        assert path.stat().st_size == 72 + 12 * np.prod(shape)
        found_axes, found = read_binary_map(path)
        assert np.array_equal(found, values) and found.flags.c_contiguous
        assert all(np.allclose(a, b, rtol=1e-14, atol=1e-9) for a, b in zip(found_axes, axes, strict=True))
        image = Path(folder) / "image.dat"
        for order in ("zxy", "xyz", "yzx"):
            image.write_bytes(values.transpose(*("xyz".index(name) for name in order), 3).tobytes())
            assert np.array_equal(read_image(image, axes, order)[1], values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"0",
        lambda raw: b"MAPFIELD" + raw[8:],
        lambda raw: raw[:40],
        lambda raw: b"",
        lambda raw: raw[:8] + b"\x02" + raw[9:],
    ],
    ids=["short", "long", "letters", "header", "empty", "version"],
)
def test_damaged_binary_maps_are_refused(tmp_path, damage):
    path = tmp_path / "map.bin"
    GridField.sample(LHCbLikeField(), tuple(np.linspace(0, 100, 3) for _ in range(3))).write(path)
    assert path.read_bytes()[:8] == b"FIELDMAP"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FieldError, match="map.bin"):
        GridField.read(path)


AXES, NODES = (
    (np.arange(2) * 10.0, np.arange(3) * 20.0, np.arange(4) * 50.0 + 300),
    np.ones((2, 3, 4, 3), dtype=np.float32),
)


@pytest.mark.parametrize("ending", ["npz", "bin"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_map_that_was_cut_is_no_map(tmp_path, ending, cut):
    path = tmp_path / f"map.{ending}"
    GridField(AXES, NODES).write(path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(FieldError, match=f"map.{ending}"):
        GridField.read(path)


@pytest.mark.parametrize("ending", ["npz", "bin"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_of_a_map_that_is_not_finite_is_named(tmp_path, ending, value):
    nodes, path = NODES.copy(), tmp_path / f"map.{ending}"
    nodes[1, 2, 3, 1] = value
    GridField(AXES, nodes).write(path)
    with pytest.raises(FieldError, match=rf"map.{ending}: By at x = 10, y = 40, z = 450 mm is {value}; write 0"):
        GridField.read(path)


@pytest.mark.parametrize(
    "axis, message",
    [
        ([0.0, 1, 5, 9], r"y has 4 values \[0.0, 1.0, 5.0, 9.0\]"),
        ([7.0], r"y has 1 values \[7.0\]"),
        ([3.0, 3.0], r"y has 2 values"),
        ([0.0, np.nan, 2.0], "y has 3 values"),
    ],
)
def test_an_axis_without_one_pitch_is_named(tmp_path, axis, message):
    axes = (AXES[0], np.array(axis), AXES[2])
    nodes, path = np.ones((2, len(axis), 4, 3), dtype=np.float32), tmp_path / "map.npz"
    write_npz_map(path, axes, nodes)
    with pytest.raises(FieldError, match=f"map.npz: {message}"):
        GridField.read(path)
    with pytest.raises(FieldError, match=message):
        GridField(axes, nodes)


def test_images_need_their_exact_length(tmp_path):
    axes = tuple(np.arange(n, dtype=float) for n in (2, 3, 4))
    (tmp_path / "image.dat").write_bytes(bytes(12 * 24))
    assert read_image(tmp_path / "image.dat", axes)[1].shape == (2, 3, 4, 3)
    with pytest.raises(FieldError, match="bytes"):
        read_image(tmp_path / "image.dat", (axes[0], axes[1], axes[2][:-1]))
    with pytest.raises(FieldError, match="order"):
        read_image(tmp_path / "image.dat", axes, "zz")
    assert 12 * np.prod([len(axis) for axis in TWODIP_GRID]) == 11_494_872


@pytest.mark.parametrize("ending", ["bin", "npz", "txt"])
def test_a_named_grid_reads_every_format(tmp_path, ending):
    axes = tuple(np.arange(low, high + 1, 100.0) for low, high in ((-600, 900), (-600, 600), (2600, 7900)))
    grid = GridField.sample(DipoleField(), axes)
    grid.write(tmp_path / f"map.{ending}")
    for polarity in (1, -1):
        field = make_field("grid", polarity, str(tmp_path / f"map.{ending}"))
        ends = [propagate(S2[None], 0.1, 2665.0, 7826.0, f) for f in (field, GridField(axes, grid.values, polarity))]
        assert np.abs(ends[0] - ends[1]).max() < 1e-3 if ending == "txt" else np.array_equal(*ends)


def test_the_price_of_the_100_mm_map():
    """Shifts of the end point by trilinear interpolation, as measured independently."""
    grid = GridField.sample(DipoleField())
    cases = [
        (S1, 1 / 2.5, 3000.0, 7000.0, 0.39),
        (S1, 1 / 10, 4000.0, 12000.0, 0.22),
        (S2, -1 / 5, 4000.0, 12000.0, 0.08),
        (S2, 1 / 50, 3000.0, 7000.0, 2e-4),
    ]
    for start, q_over_p, z0, z1, expected in cases:
        found = interpolation_error(grid, DipoleField(), start[None], q_over_p, z0, z1)[0]
        assert abs(found / expected - 1) < 0.1, (q_over_p, found)
    scan = pitch_scan(DipoleField(), (200.0, 100.0, 50.0), S1[None], np.array([0.2]), 3000.0, 7000.0)[:, 0]
    assert np.allclose(scan[:-1] / scan[1:], 4, atol=0.4)
    box = sample_box(DipoleField(), 100.0, 300.0, 3050.0, 7000.0)
    assert box.axes[0][0] == -300 and box.axes[2][0] == 3000 and box.axes[2][-1] == 7000


def test_bare_loops_are_what_propagate_runs():
    rng = np.random.default_rng(2)
    tracks, q = (
        rng.uniform([-300, -250, -0.15, -0.15], [300, 250, 0.15, 0.15], size=(20, 4)),
        rng.uniform(-0.3, 0.3, 20),
    )
    field = LHCbLikeField()
    given_arguments = (
        *field.compiled(),
        np.array(field.planes),
        np.full(20, 7826.0),
        np.full(20, 2665.0),
        tracks,
        CURVATURE * q,
    )
    assert np.array_equal(
        rk4_batch(*given_arguments, 100.0, 0.0)[0], propagate(tracks, q, 7826.0, 2665.0, field, step=100.0)
    )
    assert np.array_equal(
        cash_karp_batch(*given_arguments, 1000.0, 1e-6)[0],
        propagate(tracks, q, 7826.0, 2665.0, field, "cash_karp", tolerance=1e-6),
    )


# ---- machine code on disk

COMPILE_TWO_FIELDS = """
import sys, numpy as np
from pathlib import Path
from thesis_surrogates.tracks import steppers
from thesis_surrogates.tracks.field import LHCbLikeField, UniformField
if len(sys.argv) > 1:
    steppers.__file__ = sys.argv[1]  # as if the package stood there

class Own(UniformField):
    pass

for field in (LHCbLikeField(), Own()):
    b, p = field.compiled()
    loop = steppers.loop_for(steppers.rk4_batch, b, type(field))
    loop(b, p, np.zeros(0), np.zeros(1), np.ones(1), np.zeros((1, 4)), np.zeros(1), 10.0, 0.0)
    print(type(field).__name__, "found" if loop.stats.cache_hits else "compiled")
"""


def test_compiled_loops_are_found_again_until_any_source_changes(tmp_path):
    def start(*place):
        command = [sys.executable, "-c", COMPILE_TWO_FIELDS, *map(str, place)]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(line.split() for line in done.stdout.splitlines())

    assert start() == {"LHCbLikeField": "compiled", "Own": "compiled"}
    files = sorted(path.name for path in (tmp_path / "cache").rglob("*.nb*"))
    assert start() == {"LHCbLikeField": "found", "Own": "compiled"}
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.nb*")) == files  # a user's field leaves nothing
    for name in steppers.SOURCES:
        text = (Path(steppers.__file__).parent / name).read_text()
        (tmp_path / name).write_text(text + "# a change" * (name == "analytic_fields.py"))
    assert start(tmp_path / "steppers.py")["LHCbLikeField"] == "compiled"
