"""What the published facts say is fixed: every number of every published run, and the tables made of them, as digests
in `published.json`.

Runs that are published later do not matter here; after a listed run was published again on purpose, `python
tests/test_published.py` writes the digests anew.
"""

import hashlib
import json
from pathlib import Path

import pytest

from thesis_surrogates.core.config import config_hash, read_yaml
from thesis_surrogates.core.facts import Run
from thesis_surrogates.core.tables import comparison_table, convergence_table, read_results
from thesis_surrogates.running.registry import SYSTEMS, get_system, list_suites, load_suite, suite_path
from thesis_surrogates.running.results import published_folder, suite_runs

GOLDEN = Path(__file__).with_name("published.json")
STORED = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def rounded(value):
    """Numbers to ten digits, so that another machine's last bit does not count."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return f"{value:.10g}" if isinstance(value, float) else value


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def facts_of(run: Run):
    """All that pages read of one run."""
    kept = {
        moment: {
            key: value
            for key, value in run.last_event(moment).items()
            if key not in ("rows", "run_id", "attempt", "time")
        }
        for moment in ("model", "start")
    }
    measured = {moment: run.last_event(moment) for moment in ("runtimes", "trust")}
    return json.dumps(
        rounded(
            [
                run.config,
                run.config_hash,
                run.status,
                run.last_event("evaluated").get("rows", []),  # in the words that they were written in
                run.seconds,
                run.provenance,
                run.started,
                run.finished,
                run.error,
                kept,
                measured,
            ]
        ),
        sort_keys=True,
    ) + run.scalars.to_csv(index=False, float_format="%.10g")


def digests(suite, hashes=None, columns=None):
    """Runs, columns and digests of one suite; of the runs in `hashes` alone where they are given."""
    system, name = suite.split("/")
    record = get_system(system)
    runs = [
        run
        for run in read_results(suite_runs(system, name, published_folder(Path(__file__).parent)))[0]
        if hashes is None or run.config_hash in hashes
    ]
    if not runs:
        return None
    columns = columns or [list(record.terms.columns), record.terms.headline]
    # the digests are older than implementations and today's words
    table = comparison_table(runs, *columns).drop(columns="implementation").replace({"kind": {"baseline": "classical"}})
    return {
        "columns": columns,
        "hashes": [run.config_hash for run in runs],
        "facts": digest("".join(map(facts_of, runs))),
        "comparison": digest(table.to_csv(index=False, float_format="%.10g")),
        "convergence": digest(convergence_table(runs).to_csv(index=False, float_format="%.10g")),
    }


@pytest.mark.parametrize("suite", STORED)
def test_published_numbers_are_what_they_were(suite):
    known = STORED[suite]
    assert digests(suite, known["hashes"], known["columns"]) == known


@pytest.mark.parametrize("suite", STORED)
def test_every_published_run_is_still_one_of_its_suite(suite):
    """By its whole identity, seed of the data included: as many as were counted when the digests were written."""
    system, name = suite.split("/")
    runs = suite_runs(system, name, published_folder(Path(__file__).parent))
    made = {config_hash(config) for config in load_suite(suite, seeds=sorted({run.config["seed"] for run in runs}))}
    hashes = STORED[suite]["hashes"]
    assert sum(identity in made for identity in hashes) == len(hashes)
    assert read_yaml(suite_path(suite))["seeds"] == {"data": 0}


if __name__ == "__main__":
    found = {suite: answer for system in SYSTEMS for suite in list_suites(system) if (answer := digests(suite))}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
