import pytest
import torch
from PIL import Image
from torch import nn

from sslkit.backbones import Timm, Window, receptive_field
from sslkit.evaluate.base import evaluating
from sslkit.monitors import receptive_field as module
from sslkit.monitors.receptive_field import ReceptiveField, effective_receptive_field
from sslkit.monitors.receptive_field_map import receptive_field_map


class Convolutions(nn.Module):
    """Convolutions of (kernel, stride), padded so that a stride of 1 keeps the size; each position is a patch."""

    def __init__(self, *layers, width=1, between=nn.Identity):
        super().__init__()
        torch.manual_seed(0)
        widths = [3, *[width] * len(layers)]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(widths[i], width, k, stride=s, padding=k // 2), between())
                for i, (k, s) in enumerate(layers)
            )
        )

    def forward(self, pixels):
        x = self.layers(pixels)
        return x.mean(dim=(2, 3)), x.flatten(2).mT, tuple(x.shape[2:])


def pixels_of(height, width, n=3):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def field_of(gradient):
    return ReceptiveField(torch.as_tensor(gradient, dtype=torch.float64), (0, 0), (1, 1))


def moved(field):
    """First and last row, first and last column that move the patch."""
    rows, columns = (field.gradient.sum(dim=d).nonzero()[:, 0].tolist() for d in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def seen(window, field):
    """The same of the window of the patch, as far as there is an image."""
    bounds = []
    for position, n in zip(field.patch, field.gradient.shape, strict=True):
        inside = [pixel for pixel in window.pixels(position) if 0 <= pixel < n]
        bounds += [inside[0], inside[-1]]
    return tuple(bounds)


@pytest.mark.parametrize("height, width", [(9, 9), (7, 11), (12, 8)])
def test_a_convolution_of_three_has_its_weights_as_gradient_and_nothing_outside(height, width):
    net = Convolutions((3, 1))
    field = effective_receptive_field(net, pixels_of(height, width))
    row, column = height // 2, width // 2
    assert (field.patch, field.grid) == ((row, column), (height, width))
    expected = torch.zeros(height, width, dtype=torch.float64)
    weight = net.layers[0][0].weight.detach()[0].double()
    expected[row - 1 : row + 2, column - 1 : column + 2] = weight.abs().mean(dim=0)
    torch.testing.assert_close(field.gradient, expected, rtol=1e-6, atol=0)
    assert field.side(1.0) == 3


@pytest.mark.parametrize("layers", [[(3, 1)] * 2, [(5, 1), (3, 1)], [(3, 2), (3, 2)], [(3, 2), (5, 1), (3, 1)]])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.0, 1.0)])
def test_stacked_convolutions_see_the_window_that_theory_says(layers, at):
    net = Convolutions(*layers, width=4)
    window = receptive_field(nn.Sequential(*net.layers.children()))
    field = effective_receptive_field(net, pixels_of(41, 33), at=at)
    assert moved(field) == seen(window, field)
    assert at != (0.5, 0.5) or field.side(1.0) == window.size


def test_a_resnet_of_timm_sees_the_window_that_theory_says():
    options = dict(layers=(1, 1, 1, 1), channels=(4, 4, 4, 4), zero_init_last=False)
    net = Timm("resnet18", options=options)
    net.model.layer4 = nn.Identity()
    field = effective_receptive_field(net, pixels_of(160, 192, n=4))
    assert moved(field) == seen(receptive_field(net.model), field)


def test_a_vit_sees_the_whole_image():
    net = Timm("vit_tiny_patch16_224", options=dict(depth=1, embed_dim=24, num_heads=3, patch_size=8, img_size=32))
    field = effective_receptive_field(net, pixels_of(32, 48))
    assert field.grid == (4, 6)
    assert (field.gradient > 0).all()
    assert field.side(1.0) == 48


def test_what_a_layer_norm_keeps_constant_is_not_what_is_asked():
    class Normed(nn.Module):
        def forward(self, pixels):
            x = nn.functional.layer_norm(pixels.flatten(2).mT, (3,))
            return x.mean(dim=1), x, tuple(pixels.shape[2:])

    field = effective_receptive_field(Normed(), pixels_of(5, 5))
    assert field.gradient[2, 2] > 0.01
    assert field.gradient.count_nonzero() == 1


def test_the_gradient_is_the_mean_over_images_of_its_absolute_value_along_directions_of_length_one():
    net, pixels = Convolutions((3, 1), (3, 1), width=4, between=nn.GELU), pixels_of(6, 5)
    field = effective_receptive_field(net, pixels)
    total = torch.zeros(6, 5)
    for i, image in enumerate(pixels):
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[1][0, 3 * 5 + 2], image)  # (4, 3, 6, 5)
        chance = module.draws.uniform(0, 0, torch.tensor([i]), 4, "receptive field")[0]
        direction = ((chance >= 0.5).float() * 2 - 1) / 2
        total += (direction[:, None, None, None] * jacobian).sum(dim=0).abs().mean(dim=0)
    torch.testing.assert_close(field.gradient.float(), total / 3)


@pytest.mark.parametrize(
    "at, patch", [((0.0, 0.0), (0, 0)), ((1.0, 1.0), (6, 8)), ((0.5, 0.5), (3, 4)), ((0.0, 0.99), (0, 8))]
)
def test_a_patch_is_chosen_by_where_it_lies(at, patch):
    field = effective_receptive_field(Convolutions((3, 1)), pixels_of(7, 9), at=at)
    assert field.patch == patch
    assert field.gradient.max() == field.gradient[max(patch[0] - 1, 0) :, max(patch[1] - 1, 0) :][:3, :3].max()
    sides = [len(range(max(p - 1, 0), min(p + 2, n))) for p, n in zip(patch, (7, 9), strict=True)]
    assert field.gradient.count_nonzero() == sides[0] * sides[1]


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_images_pass_in_chunks_that_change_nothing(chunk, monkeypatch):
    net, pixels = Convolutions((3, 1), (3, 1), width=4, between=nn.GELU), pixels_of(9, 9, n=5)
    expected = effective_receptive_field(net, pixels).gradient
    monkeypatch.setattr(module, "CHUNK", chunk)
    torch.testing.assert_close(effective_receptive_field(net, pixels).gradient, expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_backbone_and_what_is_around_stay_as_they_were(training):
    net, pixels = Convolutions((3, 1), (3, 2), width=4, between=lambda: nn.BatchNorm2d(4)), pixels_of(9, 9)
    net.train(training)
    net.layers[0].eval()
    net.layers[1][0].weight.requires_grad_(False)
    modes = [m.training for m in net.modules()]
    learns = [p.requires_grad for p in net.parameters()]
    state = {name: x.clone() for name, x in net.state_dict().items()}
    before = torch.get_rng_state()
    with torch.no_grad():  # as pictures are drawn
        here = effective_receptive_field(net, pixels).gradient
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == learns
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(x, state[name]) for name, x in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert not pixels.requires_grad
    with evaluating(net):
        torch.testing.assert_close(here, effective_receptive_field(net, pixels).gradient)


@pytest.mark.parametrize("height, width", [(6, 6), (5, 8), (9, 4), (1, 3)])
def test_the_best_square_is_the_one_that_a_loop_finds(height, width):
    gradient = torch.rand(height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    field = field_of(gradient)
    for side in range(1, max(height, width) + 1):
        held = {
            (r, c): float(gradient[r : r + side, c : c + side].sum() / gradient.sum())
            for r in range(max(height - side, 0) + 1)
            for c in range(max(width - side, 0) + 1)
        }
        share, row, column = field.best_square(side)
        assert (row, column) == max(held, key=held.get)
        assert share == pytest.approx(held[row, column]) == pytest.approx(float(field.shares[side - 1]))
    assert field.shares[-1] == pytest.approx(1)


def test_a_side_holds_as_much_as_is_asked_and_no_smaller_one_does():
    even = torch.zeros(9, 9)
    even[3:6, 4:7] = 1
    assert [field_of(even).side(share) for share in (0.1, 1 / 9, 0.12, 4 / 9, 0.5, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert field_of(torch.zeros(4, 6)).side(0.5) is None
    assert field_of(torch.zeros(4, 6)).shares.tolist() == [0] * 6


def size_of(path):
    with Image.open(path) as image:
        image.load()
        assert len(image.convert("L").getcolors()) > 5  # something is drawn
        return image.size


def test_the_picture_has_the_proportions_of_the_images(tmp_path):
    net = Convolutions((3, 2), (3, 2), width=4)
    receptive_field_map(net, pixels_of(33, 33), tmp_path / "new" / "square.png", window=Window(99, 4, -49))
    receptive_field_map(net, pixels_of(33, 65), tmp_path / "wide.png", window=Window(7, 4, -3))
    square, wide = size_of(tmp_path / "new" / "square.png"), size_of(tmp_path / "wide.png")
    assert square[0] == wide[0]
    assert square[1] > 1.3 * wide[1]


def test_the_picture_looks_at_as_many_images_as_it_says(tmp_path):
    class Counting(Convolutions):
        seen = 0

        def forward(self, pixels):
            self.seen += len(pixels)
            return super().forward(pixels)

    net = Counting((3, 1))
    receptive_field_map(net, pixels_of(9, 9, n=6), tmp_path / "x.png", n_images=4)
    assert net.seen == 2 * 4  # for the centre and for the corner


def test_features_that_are_no_numbers_give_a_picture_that_says_so(tmp_path):
    def broken(pixels):
        patches = (pixels / 0).flatten(2).mT
        return patches.mean(dim=1), patches, tuple(pixels.shape[2:])

    receptive_field_map(broken, pixels_of(9, 9), tmp_path / "x.png")
    assert size_of(tmp_path / "x.png")[1] < 200


def test_constant_features_give_a_picture_that_says_so(tmp_path):
    def constant(pixels):
        patches = (0 * pixels).flatten(2).mT
        return patches.mean(dim=1), patches, tuple(pixels.shape[2:])

    receptive_field_map(constant, pixels_of(9, 9), tmp_path / "x.png")
    assert size_of(tmp_path / "x.png")[1] < 200
