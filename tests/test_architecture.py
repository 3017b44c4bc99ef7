"""The house keeps its shape: modules import from lower floors only, and stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "taskgraph_dnn"

#: Lowest first. A module imports from lower floors, and within its own folder; never sideways.
FLOORS = [
    {"errors", "events", "matrices", "pools", "machine", "meter", "wiring", "words"},
    {"arguments", "activation_functions"},
    {"layer"},
    {"config", "network", "challenge", "activations", "inputs", "scores"},
    {"synthetic", "kernels", "reference", "models"},
    {"reductions"},
    {"io"},
    {"data"},
    {"costs"},
    {"strategies", "sizing"},
    {"plan"},
    {"spare"},
    {"segments"},
    {"compiled_network", "flow", "dump"},
    {"spans"},
    {"checkpoints", "result"},
    {"graph", "executors", "checks"},
    {"inference", "report"},
    {"benchmarks", "jobs", "prediction", "record"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of what a module imports, also within its functions."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in MODULES if top(path) != "__init__"], ids=str)
def test_imports_go_down(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "taskgraph_dnn" or len(parts) == 1 or parts[1] not in FLOOR:
            continue
        assert parts[1] == top(path) or FLOOR[parts[1]] < FLOOR[top(path)], f"{path} imports {name}"


def test_no_cycle():
    """Also within a folder: each module can be put after all that it imports."""
    name_of = {
        path: ".".join(("taskgraph_dnn", *path.with_suffix("").parts)).removesuffix(".__init__") for path in MODULES
    }
    # A package's __init__ is what its users import, not what its modules do.
    waiting = {
        name_of[path]: {name for name in imports(path) if name in name_of.values()} - {name_of[path]}
        for path in MODULES
        if path.name != "__init__.py"
    }
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert free, f"a cycle among {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


def test_every_module_has_a_floor():
    assert {top(path) for path in MODULES} - {"__init__"} == set(FLOOR)


def test_distributed_and_the_task_specification_have_one_home_each():
    homes = {"distributed": set(), "dask._expr": set(), "dask._task_spec": set()}
    for path in MODULES:
        for name in imports(path):
            for private, where in homes.items():
                if name == private or name.startswith(f"{private}."):
                    where.add(str(path))
    homes["distributed"] = {str(Path(home).parent) for home in homes["distributed"]}
    assert homes["distributed"] == {"executors"}
    assert homes["dask._task_spec"] == {"graph.py"}
    assert homes["dask._expr"] == {"graph.py"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_stay_small(path):
    assert len((PACKAGE / path).read_text().splitlines()) <= 400
