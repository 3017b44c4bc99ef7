"""Settings, read through Dask's configuration (`taskgraph-dnn:` in YAML, `DASK_TASKGRAPH_DNN__...`)."""

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import dask.config
import yaml
from dask.utils import parse_bytes

from taskgraph_dnn.errors import PlanError

_NAMESPACE = "taskgraph-dnn"


@dataclass(frozen=True)
class Settings:
    """What a run is planned with.

    Attributes:
        partitions: number of batch partitions, or "auto".
        kernel: a kernel's name, or "auto".
        strategy: a strategy's name.
        task_seconds: a span of layers is to last about this long.
        partition_bytes: bytes of activations that one task may hold when partitions are sized automatically.
    """

    partitions: int | str
    kernel: str
    strategy: str
    task_seconds: float
    partition_bytes: int


def settings(**overrides: Any) -> Settings:
    """Return the configured settings, with every override that is not None in place of its setting.

    Raises:
        PlanError: the configuration holds a name that is no setting, or a value that none can have.
    """
    configured = _configured(_NAMESPACE, [*(field.name for field in fields(Settings)), "job"])
    configured |= {name: value for name, value in overrides.items() if value is not None}
    return Settings(
        partitions=_partitions(configured["partitions"]),
        kernel=str(configured["kernel"]),
        strategy=str(configured["strategy"]),
        task_seconds=_positive("task-seconds", float, configured["task_seconds"]),
        partition_bytes=_positive("partition-bytes", parse_bytes, configured["partition_bytes"]),
    )


def job_defaults() -> dict[str, Any]:
    """Return what the command line runs where its options do not say, by option name.

    Raises:
        PlanError: the configuration holds a name that is none of them.
    """
    return _configured(f"{_NAMESPACE}.job", list(_defaults()[_NAMESPACE]["job"]))


def _configured(path: str, names: list[str]) -> dict[str, Any]:
    found = dask.config.get(path)
    configured = {str(name).replace("-", "_"): value for name, value in found.items()} if found else {}
    unknown = sorted(set(configured) - set(names))
    if unknown:
        valid = ", ".join(name.replace("_", "-") for name in names)
        raise PlanError(f"unknown setting {path}.{unknown[0].replace('_', '-')}, expected one of {valid}")
    return configured


def _partitions(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    partitions: int = _positive("partitions", _whole, value, 'a whole number of at least 1, or "auto"')
    return partitions


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(value)
    return int(value)


def _positive(name: str, convert: Any, value: Any, expected: str = "a number above 0") -> Any:
    try:
        number = convert(value)
    except (TypeError, ValueError):
        number = 0
    if not number > 0:
        raise PlanError(f"{name} is {value!r}, expected {expected}")
    return number


@cache
def _defaults() -> dict[str, Any]:
    text = files("taskgraph_dnn").joinpath("taskgraph-dnn.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.safe_load(text)
    return defaults


dask.config.update_defaults(_defaults())
