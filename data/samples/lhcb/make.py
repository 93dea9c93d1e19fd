"""Write the synthetic samples of LHCb's text output, in the formats that tracks.exchange.lhcb_output reads.

    python data/samples/lhcb/make.py

No line of them comes from the experiment: tracks on a small grid are followed in the LHCb-like closed form of this
package with different step sizes under invented names, and the times are round numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thesis_surrogates.tracks.field import LHCbLikeField
from thesis_surrogates.tracks.propagation import propagate

HERE = Path(__file__).parent
LABEL = "# Synthetic sample, written by data/samples/lhcb/make.py; not output of the experiment's software."
STEPS = {"Reference": 10.0, "SyntheticMedium": 500.0, "SyntheticCoarse": 2000.0}  # mm


def state_text(state: np.ndarray) -> str:
    return "( {:7.3f}, {:7.3f}, {:5.4f}, {:5.4f} )".format(*state)


def test_lines() -> list[str]:
    """Three momenta and none, three horizontal and two vertical slopes."""
    lines, width, begin = [LABEL], max(len("Propagating "), *map(len, STEPS)), f"{'ExtrapolatorTester':35s} SUCCESS "
    lines.append(f"{'HLTControlFlowMgr':35s}    INFO Starting loop on events")
    for q_over_p in (-0.4, -0.08, 0.0, 0.4):
        for tx in (-0.15, 0.0, 0.15):
            for ty in (0.0, 0.1):
                state = np.array([3000 * tx, 3000 * ty, tx, ty])
                product = "inf" if q_over_p == 0 else f"{1 / q_over_p:g}"
                lines.append(
                    f"{begin}{'Propagating ':{width}s}    {state_text(state)} "
                    f"with q*p = {product} GeV from z = 3000 to 7000"
                )
                for name, step in STEPS.items():
                    final = propagate(state[None], q_over_p, 3000.0, 7000.0, LHCbLikeField(), "rk4", step)[0]
                    lines.append(f"{begin}{name:>{width}s} -> {state_text(final)}")
    return [*lines, f"{'ApplicationMgr':35s}    INFO Application Manager Stopped successfully"]


def sequencer_lines() -> list[str]:
    begin, rule = f"{'ToolSvc.SequencerTimerTool':35s}    INFO ", "-" * 98
    rows = [
        ("EVENT LOOP", 200.0),
        ("  TestStraight", 10.0),
        ("  TestSyntheticMedium", 50.0),
        ("  TestSyntheticCoarse", 30.0),
    ]
    lines = [
        LABEL,
        begin + rule,
        begin + "This machine has a speed about   1.00 times the speed of a 2.8 GHz Xeon.",
        begin
        + "Algorithm"
        + " " * 10
        + "(millisec) |    <user> |   <clock> |      min       max | entries | total (s) |",
        begin + rule,
    ]
    for name, ms in rows:
        lines.append(begin + f"{name:30s}| {ms:9.3f} | {ms:9.3f} | {ms:8.3f} {ms:9.1f} | {10:7d} | {ms / 100:9.3f} |")
    return [*lines, begin + rule]


def control_flow_lines() -> list[str]:
    rows = [("TestStraight", 10_000.0), ("TestSyntheticMedium", 50_000.0), ("TestSyntheticCoarse", 30_000.0)]
    lines = [
        LABEL,
        f"{'HLTControlFlowMgr':35s}    INFO Timing table:",
        f"{'HLTControlFlowMgr':35s}    INFO Average ticks per millisecond: 1000000",
        " | Name of Algorithm                                | Execution Count | Total Time / s  | Avg. Time / us   |",
    ]
    lines += [" | {:48s} | {:15d} | {:15.3f} | {:16.3f} |".format(f'"{name}"', 10, us / 1e5, us) for name, us in rows]
    tree = [
        f"{'HLTControlFlowMgr':35s}    INFO StateTree: CFNode   #executed  #passed",
        "LAZY_AND: TopSeq  #=10      Sum=10          Eff=|( 100.0000 +- 0.00000 )%|",
    ]
    return [*lines, "", *tree]


if __name__ == "__main__":
    for name, made in (
        ("extrapolator_test", test_lines),
        ("timing_sequencer", sequencer_lines),
        ("timing_control_flow", control_flow_lines),
    ):
        (HERE / f"{name}.txt").write_text("\n".join(made()) + "\n", encoding="utf-8")
