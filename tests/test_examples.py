"""The examples of the docs run, as the scripts that they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
ONE_THREAD_EACH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run(name, folder, *arguments):
    """Return what an example printed."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ | ONE_THREAD_EACH, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pruned_network_scores_digits(tmp_path):
    pytest.importorskip("sklearn")
    lines = run("digits.py", tmp_path, "--samples", "20000").splitlines()[1:]
    found = {line[:24].strip(): line[24:].split() for line in lines}
    weights = {name: int(cells[0].replace(",", "")) for name, cells in found.items()}
    accuracy = {name: float(cells[1].rstrip("%")) for name, cells in found.items()}
    dense, at_once, by_steps = "dense, in scikit-learn", "pruned in one shot", "pruned by steps"
    assert weights[at_once] == pytest.approx(weights[dense] / 10, rel=0.01)
    assert weights[by_steps] == pytest.approx(weights[at_once], rel=0.01)
    assert accuracy[at_once] < accuracy[by_steps]
    assert accuracy[by_steps] > accuracy[dense] - 5
    assert (tmp_path / "digits.safetensors").exists()


def test_a_residual_network_comes_from_onnx(tmp_path):
    pytest.importorskip("onnx")
    printed = run("residual.py", tmp_path)
    assert "Network(" in printed
    assert (tmp_path / "residual.svg").exists()
    if "largest difference" in printed:
        assert float(printed.split("ONNX Runtime: ")[1].split(",")[0]) < 1e-3


def test_parquet_files_are_scored_on_a_cluster(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    printed = run("parquet.py", tmp_path)
    assert "40,000 samples" in printed
    counts = re.search(r"samples by label: \[([\d\s]+)\]", printed)[1].split()
    assert sum(map(int, counts)) == 40_000
    assert len(list((tmp_path / "answers.parquet").iterdir())) >= 2


def test_every_example_has_a_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"digits.py", "residual.py", "parquet.py"}
