"""Fixtures that several test modules share."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn import flow
from tests.browser import Browser

# No test says how fast anything is: a machine may be busy with something else.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def official_data() -> Path:
    """The folder with official data: $TASKGRAPH_DNN_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TASKGRAPH_DNN_DATA", beside))
    if not (folder / "graph-challenge").is_dir():
        pytest.skip(f"no official data: there is no folder {folder / 'graph-challenge'}")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def nothing_goes_wrong(browser):
    """No error in a page's console, no exception, and no request but for the file itself."""
    browser.problems.clear()
    yield
    assert browser.problems == []


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20200922)


@pytest.fixture
def eager(monkeypatch):
    """Samples are looked at before every layer, whatever that takes."""
    monkeypatch.setattr(flow.Flow, "_may_look", lambda self, block: True)


def random_layer(rng, inputs, outputs, *, density=0.3, bias=None, activation="relu", negative_slope=None, cap=None):
    """A layer of random weights, with some empty rows and columns where the density is low."""
    weights = scipy.sparse.random_array((inputs, outputs), density=density, rng=rng, data_sampler=rng.standard_normal)
    if bias is None:
        bias = rng.normal(-0.1, 0.3, outputs)
    return tg.Layer(weights, bias=bias, activation=activation, negative_slope=negative_slope, cap=cap)
