import dask.config
import pytest

from taskgraph_dnn.config import make_job, settings
from taskgraph_dnn.errors import PlanError


def test_defaults():
    chosen = settings()
    assert (chosen.partitions, chosen.kernel, chosen.strategy) == ("auto", "auto", "hybrid")
    assert chosen.partition_bytes == 512 * 2**20


def test_arguments_win_over_configuration():
    with dask.config.set({"taskgraph-dnn.partitions": 7, "taskgraph-dnn.kernel": "scipy"}):
        assert settings().partitions == 7
        assert settings(partitions=3, kernel=None).partitions == 3
        assert settings(kernel=None).kernel == "scipy"


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("DASK_TASKGRAPH_DNN__KERNEL", "scipy")
    monkeypatch.setenv("DASK_TASKGRAPH_DNN__TASK_SECONDS", "0.5")
    monkeypatch.setenv("DASK_TASKGRAPH_DNN__JOB__SAMPLES", "17")
    before = dask.config.config.copy()
    try:
        dask.config.refresh()
        assert settings().kernel == "scipy"
        assert settings().task_seconds == 0.5
        assert make_job().samples == 17
    finally:
        dask.config.config.clear()
        dask.config.config.update(before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("partitions", 0, 'partitions is 0, expected a whole number of at least 1 or "auto"'),
        ("partitions", -3, "partitions is -3"),
        ("partitions", 2.5, "partitions is 2.5"),
        ("partitions", float("inf"), "partitions is inf"),
        ("partitions", None, "partitions is None"),
        ("kernel", {"a": 1}, "kernel is {'a': 1}, expected a name"),
        ("strategy", None, "strategy is None, expected a name"),
        ("partition-bytes", float("inf"), "partition-bytes is inf"),
        ("partitions", True, "partitions is True"),
        ("partitions", "many", "partitions is 'many'"),
        ("task-seconds", 0, "task-seconds is 0, expected a number above 0"),
        ("partition-bytes", "a lot", "partition-bytes is 'a lot'"),
        ("packed-bytes", "a lot", "packed-bytes is 'a lot'"),
        ("read-bytes", 0, "read-bytes is 0, expected a number above 0"),
        ("partition-bytes", float("nan"), "partition-bytes is nan"),
    ],
)
def test_values_out_of_range(name, value, message):
    with dask.config.set({f"taskgraph-dnn.{name}": value}), pytest.raises(PlanError, match=message):
        settings()


def test_a_number_of_partitions_may_be_text():
    assert settings(partitions="16").partitions == 16


def test_unknown_names_are_refused_with_the_valid_ones():
    with dask.config.set({"taskgraph-dnn.kernal": "scipy"}), pytest.raises(PlanError) as caught:
        settings()
    assert "unknown setting taskgraph-dnn.kernal, expected one of partitions, kernel" in str(caught.value)
    with dask.config.set({"taskgraph-dnn.job.sample": 3}), pytest.raises(PlanError) as caught:
        make_job()
    assert "unknown setting taskgraph-dnn.job.sample, expected one of network" in str(caught.value)


@pytest.mark.parametrize("section", ["x", 5, [1, 2], None])
def test_sections_hold_settings(section):
    for path, read in (("taskgraph-dnn", settings), ("taskgraph-dnn.job", make_job)):
        with dask.config.set({path: section}), pytest.raises(PlanError) as caught:
            read()
        assert str(caught.value).startswith(f"{path} is {section!r}, expected settings: ")


def test_missing_settings_have_their_defaults():
    with dask.config.set({"taskgraph-dnn": {"kernel": "scipy"}}):
        assert settings().kernel == "scipy"
        assert settings().strategy == "hybrid"
        assert make_job().scheduler == "threads"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("samples", value) for value in ("many", 10.5, [1], -1)),
        *(("seed", value) for value in (1.5, "x", None)),
        *(("truth", value) for value in (7, "")),
        ("network", [1]),
        *(("check", value) for value in ("lots", -1)),
        *(("neurons", value) for value in ("x", 64.0, 0, True)),
        ("layers", 2.5),
        *(("bias", value) for value in ("x", float("nan"))),
        *(("scheduler", value) for value in (3, None)),
    ],
)
def test_wrong_jobs(name, value):
    with dask.config.set({f"taskgraph-dnn.job.{name}": value}), pytest.raises(PlanError) as caught:
        make_job()
    assert str(caught.value).startswith(f"job.{name} is {value!r}, expected a")


def test_jobs_take_text_for_numbers():
    with dask.config.set({"taskgraph-dnn.job": {"samples": "12", "bias": "-0.5", "network": "a/b"}}):
        made = make_job(seed=3)
    assert (made.samples, made.bias, made.seed) == (12, -0.5, 3)
    assert made.network == "a/b"
