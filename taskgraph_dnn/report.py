"""Results as tables for people and as plain values for programs."""

from dataclasses import asdict
from itertools import groupby
from typing import Any

from dask.utils import format_bytes
from rich.table import Table
from rich.text import Text

from taskgraph_dnn.checks import Check
from taskgraph_dnn.meter import Weights
from taskgraph_dnn.result import Result
from taskgraph_dnn.words import counted


def result_table(result: Result) -> Table:
    """Return the answer and what it took, as a table for the terminal."""
    plan, seconds = result.plan, result.seconds
    table = Table(show_header=False)
    table.add_row("samples", f"{result.samples:,}")
    table.add_row("layers", f"{plan.depth:,}, {plan.edges:,} edges")
    parts = f"{counted(len(plan.partitions), 'partition')} x {counted(len(plan.spans), 'span')} of layers"
    table.add_row("tasks", f"{plan.tasks:,} ({parts})")
    (median, longest), (planned, at_most) = result.true_tasks, result.planned_tasks
    table.add_row("a task", f"{median:.3g} s, longest {longest:.3g} s; planned {planned:.3g} s and {at_most:.3g} s")
    table.add_row("reductions", ", ".join(plan.reductions) or "none")
    table.add_row("kernel", ", ".join(sorted({layer.kernel for layer in plan.layers})))
    table.add_row("categories", f"{len(result.categories):,} samples with a nonzero output")
    if plan.attempt:
        finished = counted(result.resumed.finished, "partition")
        resumed = f"{finished} finished before, {result.resumed.under_way:,} under way"
        table.add_row("resumed", f"{resumed}; attempt {plan.attempt + 1:,}")
    table.add_section()
    table.add_row("read", f"{seconds.read:.3f} s")
    table.add_row("prepare", f"{seconds.prepare:.3f} s")
    table.add_row("infer", f"{seconds.infer:.3f} s")
    if result.weights.nbytes:
        table.add_row("weights", _weights(result.weights))
    table.add_row("rate", f"{result.edges_per_second:.3g} edges/s (samples x edges / infer seconds)")
    if result.edges:
        share = f"{result.multiply_adds:,} of {result.edges:,} ({result.multiply_adds / result.edges:.2%})"
        left_out = ", the others left out" if result.multiply_adds != result.edges else ""
        table.add_row("multiply-adds", f"{share} were done{left_out}")
    return table


def _weights(weights: Weights) -> str:
    loaded = f"{format_bytes(weights.nbytes)} loaded in {weights.stall_seconds:.3f} s"
    return f"{loaded}; packed {weights.misses:,} times, found packed {weights.hits:,} times"


def layers_table(result: Result) -> Table:
    """Return what was left and what was done, layer by layer, as a table for the terminal; equal layers share a row."""
    table = Table("layers", "samples alive", "distinct", "multiply-adds done", "of all")
    for column in table.columns:
        column.justify = "right"
    counts = groupby(result.layers, key=lambda layer: (layer.alive, layer.distinct, layer.done, layer.skipped))
    for (alive, distinct, done, skipped), group in counts:
        numbers = [layer.layer for layer in group]
        label = str(numbers[0] or "input") if len(numbers) == 1 else f"{numbers[0]:,}-{numbers[-1]:,}"
        each = " each" if len(numbers) > 1 and done else ""
        share = f"{done / (done + skipped):.2%}" if done + skipped else ""
        table.add_row(label, f"{alive:,}", f"{distinct:,}", f"{done:,}{each}", share)
    return table


def check_table(checks: list[Check]) -> Table:
    """Return the checks as a table for the terminal."""
    table = Table("check", "verdict", "compared")
    for check in checks:
        verdict = Text("agrees", "green") if check.passed else Text("DIFFERS", "bold red")
        table.add_row(check.name, verdict, check.detail)
    return table


def result_dict(result: Result, checks: list[Check]) -> dict[str, Any]:
    """Return the answer, its plan and its times as plain values, ready for JSON; samples are numbered from 0."""
    return {
        "neurons": result.plan.inputs,
        "layers": result.plan.depth,
        "reductions": list(result.plan.reductions),
        "samples": result.samples,
        "edges": result.edges,
        "multiply_adds": result.multiply_adds,
        "resumed": result.resumed._asdict(),
        "read_seconds": result.seconds.read,
        "prepare_seconds": result.seconds.prepare,
        "infer_seconds": result.seconds.infer,
        "edges_per_second": result.edges_per_second,
        "task_seconds": {"planned": result.planned_tasks._asdict(), "true": result.true_tasks._asdict()},
        "weights": result.weights._asdict(),
        "categories": result.categories.tolist(),
        "layer_counts": [asdict(layer) for layer in result.layers],
        "verified": all(check.passed for check in checks) if checks else None,
        "checks": [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks],
        "plan": result.plan.to_dict(),
    }
