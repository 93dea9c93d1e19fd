"""How far kinetic boxes are converged: the same cells and seeds in finer, longer and turned boxes; one process.

    python benchmarks/flavor_boxes.py [--out outputs/published/flavor/boxes.csv] [--only NAME ...]

Writes one row a box into the table and goes on where it was interrupted; to begin anew, remove the file. All of it
takes a quarter of an hour of one processor. `flavor.study.kinetic.convergence` says what is run, and its notebook shows
the table.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before anything that starts threads

import argparse
from pathlib import Path

from thesis_surrogates.flavor.study.kinetic.convergence import VARIANTS, run_study, study_cells


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/published/flavor/boxes.csv"))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    arguments = parser.parse_args()
    wanted = {name: VARIANTS[name] for name in arguments.only}
    for row in run_study(arguments.out, study_cells(), wanted):
        print(
            f"{row['variant']:16} {row['cell']:10} seed {row['seed']}: N_e {row['ne']:.4f}, {row['seconds']:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
