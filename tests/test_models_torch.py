"""PyTorch's modules and state dicts, beside PyTorch itself."""

import operator

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.errors import NetworkError
from tests.models import assert_agrees

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20200922)


def lively(module):
    """The module in evaluation, its normalisations with statistics that do something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module.eval()


def check(module, shape, *, given=True):
    """Translate a module, and compare; returns the network."""
    network = tg.from_torch(module, input_shape=shape if given else None)
    rows = torch.randn(7, *shape)
    with torch.no_grad():
        assert_agrees(network, rows.numpy(), module.eval()(rows).numpy())
    return network


def check_as_is(module, *shape):
    return check(lively(module), shape)


# Chains.


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU6(),
        nn.LeakyReLU(0.2),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Identity(),
        nn.Hardtanh(),
        nn.Hardtanh(-2, 3),
    ],
    ids=str,
)
def test_activations(activation):
    module = nn.Sequential(nn.Linear(6, 9), activation, nn.Linear(9, 4), activation)
    for layer in module[::2]:
        nn.init.normal_(layer.weight, std=3)
    check(module, (6,), given=False)


def test_everything_a_chain_may_have_is_folded_into_its_layers():
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 10, bias=False),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Identity(), nn.Linear(10, 8), nn.Tanh(), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 5)),
        nn.Softmax(dim=1),
    )
    network = check(lively(module), (12,), given=False)
    assert [layer.activation for layer in network] == ["relu", "tanh", "softmax"]


def test_a_module_in_training_is_read_as_in_evaluation_and_stays_in_training():
    module = lively(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3)))
    expected = tg.from_torch(module).digest
    module.train()
    module[2].eval()
    assert tg.from_torch(module).digest == expected
    assert [part.training for part in module] == [True, True, False, True]


def test_one_layer_by_itself():
    network = check(nn.Linear(4, 3), (4,), given=False)
    assert len(network) == 1


def test_a_model_without_layers_is_one_that_changes_nothing():
    network = check(nn.Sequential(nn.Flatten()), (2, 3))
    assert (len(network), network.nnz) == (1, 6)


def test_one_neuron_and_one_input():
    check(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)), (1,), given=False)


def test_weights_may_be_float64_and_lie_anywhere():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    module[0].weight = nn.Parameter(torch.randn(6, 10, dtype=torch.float64).T[::2])
    assert not module[0].weight.is_contiguous()
    network = tg.from_torch(module)
    rows = torch.randn(9, 6, dtype=torch.float64)
    assert_agrees(network, rows.float().numpy(), module(rows.float().double()).detach().numpy())


def test_half_precision_weights_are_taken_as_they_are():
    for dtype in (torch.float16, torch.bfloat16):
        module = nn.Sequential(nn.Linear(6, 5), nn.ReLU()).to(dtype)
        np.testing.assert_array_equal(
            tg.from_torch(module)[0].weights.toarray(), module[0].weight.detach().float().numpy().T
        )


# Pruning.


def pruned_module():
    module = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    prune.l1_unstructured(module[0], "weight", amount=0.9)
    prune.random_structured(module[2], "weight", amount=0.5, dim=0)
    prune.random_unstructured(module[2], "weight", amount=0.5)  # over the other: masks are joined
    prune.random_unstructured(module[2], "bias", amount=0.5)
    return module


def test_masks_are_applied():
    module = pruned_module()
    network = check(module, (20,), given=False)
    assert network[0].nnz == 32
    assert network[1].nnz == int(module[2].weight_mask.sum())
    assert tg.from_torch(module.state_dict()).digest == network.digest


def test_masks_are_applied_to_weights_that_were_trained_since():
    """torch itself looks at the mask only when the module is called."""
    module = pruned_module()
    with torch.no_grad():
        module[0].weight_orig.mul_(2)
    check(module, (20,), given=False)
    one = prune.l1_unstructured(nn.Linear(6, 4), "weight", amount=0.5)
    with torch.no_grad():
        one.weight_orig.mul_(2)
    check(one, (6,), given=False)


def test_a_layer_that_is_pruned_away():
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    prune.random_unstructured(module[2], "weight", amount=1.0)
    assert check(module, (5,), given=False)[1].nnz == 0


def test_weights_that_are_computed():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))
    parametrize.register_parametrization(module[0], "weight", Doubled())
    check(module, (5,), given=False)


def test_a_layer_of_the_users_own_is_looked_into():
    class Masked(nn.Linear):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.register_buffer("mask", (torch.rand(sizes[::-1]) < 0.3).float())

        def forward(self, x):
            return functional.linear(x, self.weight * self.mask, self.bias)

    module = nn.Sequential(Masked(8, 6), nn.ReLU(), Masked(6, 4))
    network = check(module, (8,))
    assert network[0].nnz == int(module[0].mask.sum())


# Convolutions and averages.


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 3)},
        {"kernel_size": 3, "padding": 1, "groups": 2, "bias": False},
        {"kernel_size": 1, "groups": 4},
        {"kernel_size": 4, "padding": "same", "dilation": 2},
        {"kernel_size": (2, 3), "padding": "valid", "stride": 3},
        {"kernel_size": 7, "padding": 3, "stride": 2},
    ],
    ids=str,
)
def test_convolutions(options):
    network = check(nn.Sequential(nn.Conv2d(4, 8, **options), nn.ReLU()), (4, 9, 8))
    assert len(network) == 1


def test_a_convolution_has_the_edges_of_its_weights_that_are_not_0():
    module = nn.Conv2d(1, 1, 3, padding=1)
    prune.custom_from_mask(module, "weight", torch.tensor([[[[0, 0, 0], [0, 1, 0], [0, 0, 1.0]]]]))
    assert check(module, (1, 5, 5))[0].nnz == 25 + 16


@pytest.mark.parametrize("module", [nn.Conv1d(2, 3, 4, stride=2, padding=1), nn.Conv3d(2, 3, 2, stride=(1, 2, 1))])
def test_convolutions_of_other_dimensions(module):
    check(nn.Sequential(module, nn.Tanh(), nn.Flatten()), (2, 6, 5, 4)[: module.weight.ndim - 1])


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
        {"kernel_size": 3, "padding": 1, "count_include_pad": False},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    ],
    ids=str,
)
def test_averages(options):
    check(nn.AvgPool2d(**options), (3, 7, 6))
    check(nn.Sequential(nn.AvgPool1d(2, ceil_mode=True), nn.ReLU()), (3, 7))


@pytest.mark.parametrize("size", [1, 2, (3, 5), (None, 4), 7])
def test_averages_to_a_size(size):
    check(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(size)), (2, 7, 6))


def test_normalised_images():
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten()
    )
    network = check_as_is(module, 2, 6, 6)
    assert len(network) == 2  # the second normalisation and the average are one


def test_what_comes_after_each_other_without_an_activation_is_multiplied_only_where_it_pays():
    narrow = nn.Sequential(nn.Linear(30, 2), nn.Linear(2, 30))
    assert [layer.nnz for layer in check(narrow, (30,))] == [60, 60]
    wide = nn.Sequential(nn.Linear(4, 30), nn.Linear(30, 4))
    assert [layer.nnz for layer in check(wide, (4,))] in ([16], [120, 120])
    scaled = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30))
    assert len(check_as_is(scaled, 4)) == 1


# Graphs.


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x):
        y = functional.relu(self.norms[0](self.first(x)), inplace=True)
        y = self.norms[1](self.second(y))
        y += x
        return functional.relu(y)


def test_a_residual_block_is_two_layers():
    network = check_as_is(Block(2), 2, 4, 4)
    assert [network.sources(k) for k in range(len(network))] == [(-1,), (0, -1)]
    network = check_as_is(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), Block(2), Block(2)), 1, 4, 4)
    assert [network.sources(k) for k in range(len(network))] == [(-1,), (0,), (1, 0), (2,), (3, 2)]


class Wired(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 6)
        self.scale = nn.Parameter(torch.randn(6))
        self.call = forward

    def forward(self, x):
        return self.call(self, x)


WIRED = {
    "concatenation": lambda m, x: m.c(torch.cat([torch.relu(m.a(x)), torch.tanh(m.b(x))], dim=1)),
    "with the input": lambda m, x: m.c(torch.cat([x, m.a(x).relu()], -1)),
    "twice the same": lambda m, x: m.c(torch.cat([torch.relu(m.a(x))] * 2, 1)),
    "added to itself": lambda m, x: (h := m.a(x).sigmoid()) + h,
    "dense blocks": lambda m, x: m.c(torch.cat([h := torch.relu(m.a(x)), torch.relu(m.b(h))], 1)) + h,
    "shared layer": lambda m, x: m.a(m.a(x).relu()).relu() + m.a(x),
    "pre-activation": lambda m, x: m.b((y := m.a(x) + x).relu()) + y,
    "constants": lambda m, x: (1 - m.a(x) * m.scale / 4 + 0.5 - m.scale).clamp(0.1, 2),
    "of scalars": lambda m, x: torch.add(m.a(x), m.b(x), alpha=-0.5).clamp(max=1.5),
    "shapes": lambda m, x: m.c(torch.cat([m.a(x)] * 2, 1).view(x.size(0), 2, 6).flatten(1)).reshape(x.shape[0], -1),
    "permuted": lambda m, x: m.a(x).view(-1, 2, 3).permute(0, 2, 1).reshape(x.shape),
    "mean": lambda m, x: m.a(x).relu().view(-1, 2, 3).mean(dim=2),
    "squeezed": lambda m, x: (m.a(x).unsqueeze(1) + m.b(x).view(-1, 6, 1).squeeze(-1).unsqueeze(-2)).squeeze(1),
    "matmul": lambda m, x: -(x @ m.a.weight + torch.matmul(x, m.b.weight)).view(-1, 3, 2),
    "softmax": lambda m, x: functional.softmax(m.a(x) + m.b(x).relu(), dim=-1),
    "negative clamp": lambda m, x: functional.hardtanh(m.a(x).relu(), -1, 0.5) + functional.relu6(m.b(x)),
    "dropout": lambda m, x: functional.leaky_relu(functional.dropout(m.a(x), 0.3, m.training)),
    "changed in place": lambda m, x: operator.iadd(functional.relu(m.a(x), True), x),
    "scaled in place": lambda m, x: operator.itruediv(operator.imul(operator.isub(m.a(x), x), m.scale), 3.0),
    "dropout in place": lambda m, x: functional.dropout(h := m.a(x), 0.5, m.training, True) + h,
    "a changed copy": lambda m, x: (h := m.a(x)).clone().relu_() + h,
}


@pytest.mark.parametrize("name", WIRED)
def test_what_a_module_does_in_its_forward(name):
    check_as_is(Wired(WIRED[name]), 6)


def test_a_sum_that_several_read_is_computed_once():
    network = check_as_is(Wired(lambda m, x: m.b((y := m.a(x)).relu()) + y.tanh()), 6)
    assert network.nnz == 36 + 6 + 6 + 36 + 6


def test_functions_with_weights():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(3, 2, 2, 2)), nn.Parameter(torch.randn(4, 12))

        def forward(self, x):
            y = functional.conv2d(x, self.w, stride=2, padding=1)
            y = functional.adaptive_avg_pool2d(functional.avg_pool2d(y, 2, 1), (2, 2))
            y = functional.dropout(y, training=self.training)
            return functional.linear(torch.flatten(y, 1), self.v)

    check_as_is(Functional(), 2, 6, 6)


# What cannot be.


def refused(module, *shape, match):
    with pytest.raises(NetworkError, match=match):
        tg.from_torch(module, input_shape=shape or None)


def test_all_that_cannot_be_is_named_at_once():
    module = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.LayerNorm(8), nn.Linear(8, 4), nn.LogSoftmax(1)),
    )
    refused(
        module,
        *(1, 10, 10),
        match=r"^Sequential: cannot translate MaxPool2d \(2: 1, 3\); GELU \(1: 2\); LayerNorm \(1: 5\); LogSoftmax",
    )


UNSUPPORTED = {
    "two values": (lambda m, x: m.a(x) * m.b(x), r"mul of two values that both depend"),
    "exp": (lambda m, x: m.a(x).exp() + torch.erf(x), r"exp \(1: exp\); erf \(1: erf\)"),
    "always drops": (lambda m, x: functional.dropout(m.a(x)), "dropout in evaluation too"),
    "samples": (lambda m, x: m.a(x).view(-1, 3), r"view of samples of shape \(6,\) to \(-1, 3\)"),
    "flat": (lambda m, x: m.a(x).flatten(), r"flatten along axis 0"),
    "of samples": (lambda m, x: torch.cat([x, x]), r"cat along axis 0"),
    "over samples": (lambda m, x: x.mean(0), r"mean along axis 0"),
    "over all": (lambda m, x: x.mean(), r"mean over all axes"),
    "softmax inside": (lambda m, x: m.a(functional.softmax(x, 1)), r"softmax softmax: softmax is read by other layers"),
    "softmax of a part": (lambda m, x: functional.softmax(x.view(-1, 2, 3), 2), r"softmax over axis 2"),
    "shape": (lambda m, x: m.c(m.a(x)), r"Linear of values of shape \(6,\) by weights of shape \(12, 6\)"),
    "squeezed": (lambda m, x: m.a(x).squeeze(), "squeeze without an axis"),
    "slope": (lambda m, x: functional.leaky_relu(x, 1.5), r"leaky_relu with the slope 1.5"),
    "bounds": (lambda m, x: x.clamp(2, 1), r"clamp with the bounds 2 and 1"),
    "constant": (lambda m, x: m.scale * 2, "its output 'mul' does not depend on its input"),
    "arguments": (lambda m, x: torch.cat([x, m.a(x)], axis=1), r"cat as it is called: TypeError\(.*'axis'"),
    "no shape for both": (lambda m, x: m.a(x) + m.c(torch.cat([x, x], 1))[:, :4], r"getitem \(1: getitem\)"),
    "shapes": (lambda m, x: m.a(x) + torch.cat([x, x], 1), "add as it is called: ValueError.*shape mismatch"),
    "weights": (lambda m, x: functional.linear(m.scale, x), "linear as it is called: .*Error"),
    "two outputs": (lambda m, x: (m.a(x), m.b(x)), "returns a tuple, expected one tensor"),
    "control flow": (lambda m, x: m.a(x) if x.sum() > 0 else x, "cannot be traced"),
    "changed": (lambda m, x: functional.relu(y := m.a(x), inplace=True) + y, "relu in place, of what is read again"),
    "changed view": (lambda m, x: x.view(-1, 2, 3).relu_().flatten(1) + x, "relu_ in place"),
    "changed by an assignment": (lambda m, x: (h := m.a(x), operator.iadd(h, x))[0], "iadd in place, of what is read"),
    "told by place": (lambda m, x: (h := m.a(x), functional.relu(h, True))[0], "relu in place, of what is read again"),
    "changed dropout": (lambda m, x: functional.dropout(x, training=False).relu_() + x, "relu_ in place"),
    "changed axes": (lambda m, x: x.unsqueeze(1).relu_().squeeze(1) + x, "relu_ in place"),
    "changed constant": (lambda m, x: x + m.scale.mul_(2), "mul_ in place, of a constant"),
    "by the number of samples": (lambda m, x: x / x.size(0), "truediv as it is called: .*'Samples'"),
    "half of the samples": (lambda m, x: x.view(x.shape[0] // 2, -1), "floordiv of constants: .*'Samples'"),
    "samples meet values": (lambda m, x: x - x.mean(1), r"sub of samples of shape \(6,\) and samples of shape \(\)"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_forward_does_and_cannot_be_is_refused(name):
    forward, message = UNSUPPORTED[name]
    refused(Wired(forward), 6, match=message)


def test_modules_that_are_not_as_they_seem_are_refused():
    linear = nn.Linear(3, 3)
    linear.register_forward_hook(lambda module, given, output: output + 1)
    refused(nn.Sequential(linear), match="Linear with a hook")
    refused(nn.BatchNorm1d(3, track_running_stats=False), match="BatchNorm1d without running statistics")
    refused(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), 1, 5, 5, match="padding mode 'circular'")
    refused(nn.AvgPool2d(2, divisor_override=3), 1, 5, 5, match="with a divisor of its own")
    refused(
        nn.Conv2d(2, 1, 3),
        1,
        5,
        5,
        match=r"weights of shape \(1, 2, 3, 3\) in 1 groups, on values of shape \(1, 5, 5\)",
    )
    refused(nn.Conv2d(1, 1, 7), 1, 5, 5, match="Conv2d of 7 values where there are 5")
    refused(nn.ConvTranspose2d(1, 1, 3), 1, 5, 5, match=r"cannot translate ConvTranspose2d \(1: 0\)")


def test_the_shape_of_a_sample_must_be_known():
    refused(
        nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), match="does not say what shape a sample has: give input_shape"
    )
    refused(Wired(lambda m, x: x.relu()), match="give input_shape")
    for wrong, message in (
        (6, "expected the sizes of"),
        ([], "expected the sizes of"),
        ((2, 0), "is 0, expected a whole"),
    ):
        with pytest.raises(NetworkError, match=message):
            tg.from_torch(nn.Linear(6, 2), input_shape=wrong)


def test_modules_of_two_inputs_are_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    refused(Two(), 3, match=r"Two has 2 inputs \(x, y\), expected 1")


def test_weights_that_are_no_numbers_are_refused():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        module[0].weight[1, 0] = float("nan")
    refused(module, match=r"Sequential: cannot translate Linear with a weight of nan, expected finite .* \(1: 0\)")
    with torch.no_grad():
        module[0].weight[:] = 1e30
    refused(
        nn.Sequential(module[0], module[0]), match="Sequential: output: weight of input 0, output 0 is inf, expected"
    )
    refused(nn.Linear(2, 2, device="meta"), match="Linear as it is called: .*torch does not give the numbers")


def test_modules_that_run_another_one_are_it():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    expected = tg.from_torch(module).digest
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(module))
    for other in (nn.DataParallel(module), averaged, torch.compile(module, backend="eager")):
        assert tg.from_torch(other).digest == expected


def test_a_constant_that_a_module_would_change_stays_as_it_is():
    module = Wired(UNSUPPORTED["changed constant"][0])
    before = module.scale.detach().clone()
    refused(module, 6, match="of a constant")
    assert torch.equal(module.scale, before)


def test_other_things_are_refused():
    for wrong in (3, None, [nn.Linear(2, 2)]):
        refused(wrong, match="expected a torch.nn.Module or a state dict")
    with pytest.raises(NetworkError, match="activation is 'relu', but a module has its own"):
        tg.from_torch(nn.Linear(2, 2), activation="relu")
