"""The prototype head against its formula."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from sslkit.heads import Prototypes
from sslkit.heads.prototypes import WeightNorm

SIZES = dict(hidden=7, bottleneck=4)


def head_of(**changes):
    return Prototypes({"image": 6, "region": 3}, **(dict(dim=5, **SIZES) | changes))


def gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def affine(layer, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("output", ["image", "region"])
def test_scores_are_magnitude_times_the_cosine_to_each_prototype(n_layers, output):
    head = head_of(n_layers=n_layers).double()
    layers = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert len(layers) == n_layers
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    prototypes = head.outputs[output]
    with torch.no_grad():
        prototypes.weight_g.uniform_(0.5, 2)
    rows = torch.randn(3, 5, dtype=torch.float64)
    scores = head(rows, output)
    for row, got in zip(rows.tolist(), scores, strict=True):
        x = row
        for i, layer in enumerate(layers):
            x = affine(layer, x)
            x = [gelu(v) for v in x] if i + 1 < n_layers else x
        length = math.sqrt(sum(v * v for v in x))
        expected = []
        for g, v in zip(prototypes.weight_g[:, 0].tolist(), prototypes.weight_v.tolist(), strict=True):
            size = math.sqrt(sum(c * c for c in v))
            expected.append(g * sum(a * b for a, b in zip(x, v, strict=True)) / length / size)
        assert got.tolist() == pytest.approx(expected, rel=1e-9)


def test_scores_lie_between_minus_one_and_one_while_magnitudes_are_one():
    assert head_of()(torch.randn(50, 5), "image").abs().max() <= 1 + 1e-6


def test_our_weight_normalisation_is_torchs():
    ours = WeightNorm(4, 6, learn_magnitude=True)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6, bias=False))
    theirs.parametrizations.weight.original0.data.copy_(ours.weight_g.data.uniform_(0.5, 2))
    theirs.parametrizations.weight.original1.data.copy_(ours.weight_v.data)
    x = torch.randn(3, 4)
    torch.testing.assert_close(ours(x), theirs(x))


def test_outputs_share_the_mlp_and_nothing_else():
    head = head_of()
    head(torch.randn(3, 5), "region").sum().backward()
    assert all(p.grad is not None for p in head.mlp.parameters())
    assert all(p.grad is None for p in head.outputs["image"].parameters())
    assert head.outputs["region"].weight_v.grad is not None


@pytest.mark.parametrize("learn", [True, False])
def test_magnitudes_are_trained_only_when_asked(learn):
    head = head_of(learn_magnitude=learn)
    assert [layer.weight_g.requires_grad for layer in head.outputs.values()] == [learn, learn]
    assert all((layer.weight_g == 1).all() for layer in head.outputs.values())


def test_batch_norm_stands_after_every_hidden_layer_and_not_at_the_end():
    kinds = [type(m).__name__ for m in head_of(batch_norm=True).mlp]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    assert [type(m).__name__ for m in head_of().mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_a_head_without_width_is_built_later_and_then_the_same():
    late = head_of(dim=None)
    assert not hasattr(late, "mlp")
    late.build(5)
    ready = head_of()
    assert {k: v.shape for k, v in late.state_dict().items()} == {k: v.shape for k, v in ready.state_dict().items()}


def test_no_rows_give_no_scores():
    assert head_of()(torch.zeros(0, 5), "image").shape == (0, 6)


def test_each_row_is_scored_on_its_own():
    head, rows = head_of(), torch.randn(6, 5)
    torch.testing.assert_close(head(rows, "image")[2:4], head(rows[2:4], "image"))


def test_a_head_names_its_outputs_in_their_order():
    assert head_of().names == ("image", "region")


# shared prototypes


def sharing():
    return Prototypes({"image": 6, "patch": "image", "region": 3}, dim=5, **SIZES)


def test_an_output_that_shares_prototypes_scores_by_them():
    head, rows = sharing(), torch.randn(4, 5)
    assert torch.equal(head(rows, "patch"), head(rows, "image"))
    assert head.widths == {"image": 6, "patch": 6, "region": 3}
    assert head.names == ("image", "patch", "region")


def test_shared_prototypes_are_there_once_and_learn_from_both_outputs():
    head, rows = sharing(), torch.randn(4, 5)
    weights = [p for p in head.parameters() if p.shape == (6, 4)]
    assert len(weights) == 1
    grads = []
    for outputs in (("image",), ("patch",), ("image", "patch")):
        head.zero_grad()
        sum(head(rows, output).square().sum() for output in outputs).backward()
        grads.append(weights[0].grad.clone())
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[2], 2 * grads[0])


def test_an_output_may_share_what_comes_after_it():
    assert Prototypes({"patch": "image", "image": 4}, dim=5, **SIZES).widths == {"patch": 4, "image": 4}


def test_sharing_survives_a_copy_a_pickle_and_a_saved_state(tmp_path):
    head, rows = sharing(), torch.randn(4, 5)
    loaded = sharing()
    torch.save(head.state_dict(), tmp_path / "head.pt")
    loaded.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    for again in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), loaded):
        assert again.outputs["patch"] is again.outputs["image"]
        torch.testing.assert_close(again(rows, "patch"), head(rows, "patch"))


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(outputs={}), "outputs={}"),
        (dict(outputs={"a": 1}), "'a': 1"),
        (dict(outputs={"a": 2.5}), "'a': 2.5.*whole numbers"),
        (dict(outputs={"a": 2}, n_layers=0), "=0"),
        (
            dict(outputs={"a": 2, "b": "c"}),
            "'b' can only share .* another has of its own; there are those of: a",
        ),
        (dict(outputs={"a": "a"}), "'a' can only share .* there are those of: none"),
        (dict(outputs={"a": "b", "b": "a", "c": 2}), "'a' can only share .* there are those of: c"),
        (dict(outputs={"a": "b", "b": "c", "c": 2}), "'a' can only share .* there are those of: c"),
    ],
)
def test_a_head_that_cannot_be_is_refused_by_name(wrong, named):
    with pytest.raises(ValueError, match=named):
        Prototypes(**wrong)
