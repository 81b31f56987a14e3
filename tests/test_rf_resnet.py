"""A patch sees the pixels of its window, all of them and no others; and what timm makes of these networks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import timm
import torch
from safetensors import safe_open
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from sslkit.backbones import RFResNet, Timm, Window, pad_by, receptive_field
from sslkit.backbones.weights import export_timm, load
from sslkit.contracts import BackboneContract
from tests.conftest import ROOT

# name: receptive field, stride, width of the patches, parameters without a classifier
NAMED = {
    "rf99_resnet50": (99, 32, 2048, 22_465_600),
    "rf29_resnet18": (29, 8, 512, 2_781_760),
    "bagnet9": (9, 8, 2048, 13_639_744),
    "bagnet17": (17, 8, 2048, 14_164_032),
    "bagnet33": (33, 8, 2048, 16_261_184),
}
NARROW = {"channels": (4, 4, 4, 4), "num_classes": 0}


def narrow(name, **options):
    return timm.create_model(name, **NARROW | options).eval()


def randomized(model):
    """With statistics as if it had been trained."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return model


# the formula


def plain(kind):
    with torch.device("meta"):
        return {
            "ResNet-50 v1.5": lambda: timm.create_model("resnet50"),
            "ResNet-50 v1": lambda: RFResNet(Bottleneck, (3, 4, 6, 3), kernels=3, stride_on="1x1"),
            "ResNet-18": lambda: timm.create_model("resnet18"),
            "ResNet-18, small": lambda: RFResNet(BasicBlock, (2, 2, 2, 2), kernels=3, stem="3x3"),
        }[kind]()


@pytest.mark.parametrize(
    "kind, sizes",
    [
        ("ResNet-50 v1.5", (11, 35, 91, 107, 267, 427)),
        ("ResNet-50 v1", (11, 35, 99, 131, 291, 483)),
        ("ResNet-18", (11, 43, 99, 115, 211, 435)),
        ("ResNet-18, small", (3, 11, 25, 29, 53, 109)),
    ],
)
def test_receptive_fields_of_plain_networks_are_the_known_ones(kind, sizes):
    net = plain(kind)
    block = net.layer3[0]
    first = [block.conv1] if isinstance(block, BasicBlock) else [block.conv1, block.conv2]
    after = [net.conv1, net.maxpool]
    found = [receptive_field(nn.Sequential(*after)).size]
    for stage in (net.layer1, net.layer2):
        after.append(stage)
        found.append(receptive_field(nn.Sequential(*after)).size)
    found.append(receptive_field(nn.Sequential(*after, *first)).size)
    for stage in (net.layer3, net.layer4):
        after.append(stage)
        found.append(receptive_field(nn.Sequential(*after)).size)
    assert tuple(found) == sizes
    assert receptive_field(net) == receptive_field(nn.Sequential(*after))


def seen_by(model, image, position):
    """Which pixels of (b, 3, h, w) images change the map of a model at a position."""
    pixels = image.clone().requires_grad_()
    features = model.forward_features(pixels) if hasattr(model, "forward_features") else model(pixels)
    features[..., position[0], position[1]].sum().backward()
    return (pixels.grad != 0).any(dim=(0, 1))


@pytest.mark.parametrize("seed", range(12))
def test_a_chain_sees_from_the_first_to_the_last_pixel_that_the_formula_says(seed):
    rng = torch.Generator().manual_seed(seed)

    def draw(*values):
        return values[torch.randint(len(values), (), generator=rng)]

    layers = []
    for n_in in (3, 1, 1, 1):
        kernel, stride = draw(1, 2, 3, 5), draw(1, 1, 2, 3)
        padding = int(torch.randint(kernel // 2 + 1, (), generator=rng))
        if draw(True, True, False):
            dilation = draw(1, 1, 2)
            layers.append(nn.Conv2d(n_in, 1, kernel, stride, padding=padding, dilation=dilation))
            nn.init.ones_(layers[-1].weight)
        else:
            layers += [nn.Conv2d(n_in, 1, 1), nn.AvgPool2d(kernel, stride, padding=padding)]
            nn.init.ones_(layers[-2].weight)
    chain = nn.Sequential(*layers).double()
    window = receptive_field(chain)
    image = torch.rand(1, 3, 150, 150, dtype=torch.float64)
    side = chain(image).shape[-1]
    for n in {0, side // 2, side - 1}:
        rows = seen_by(chain, image, (n, n)).any(dim=0).nonzero()
        inside = [p for p in window.pixels(n) if 0 <= p < 150]
        if 0 < n < side - 1:
            assert (int(rows[0]), int(rows[-1])) == (inside[0], inside[-1])
        assert int(rows[0]) >= inside[0] and int(rows[-1]) <= inside[-1]  # gaps may lie at the border


def test_a_shortcut_that_sees_more_than_its_block_counts():
    net = RFResNet(BasicBlock, (1, 1, 1, 1), kernels=1, stem="3x3", channels=(4, 4, 4, 4))
    net.layer4[0].downsample[0] = nn.Conv2d(4, 4, 4, stride=2, padding=0)
    assert receptive_field(net) == Window(size=3 + 3 * 4, stride=8, start=-1)


@pytest.mark.parametrize(
    "model, message",
    [
        ("seresnet50", "ResNet.layer1.0.se is a SEModule, of which it is not known"),
        ("resnetblur50", "ResNet.maxpool.1 is a BlurPool2d"),
        ("resnet50_gn", "ResNet.bn1 is a GroupNorm"),
        ("vit_tiny_patch16_224", "VisionTransformer is a VisionTransformer, of which"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1)), "Sequential.1 is a AdaptiveAvgPool2d"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Softmax(dim=3)), "Sequential.1 is a Softmax, of which it is not known"),
        (
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
            "Sequential.0 has no running statistics, so that",
        ),
        (nn.Conv2d(3, 3, (1, 3)), r"Conv2d has kernel_size=\(1, 3\), but it must be one number"),
        (nn.Conv2d(3, 3, 3, padding="same"), "Conv2d has padding='same', but it must be one number"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "by which it sees the other end of the image"),
    ],
    ids=lambda x: x if isinstance(x, str) and " " not in x else "",
)
def test_what_may_see_more_than_a_window_is_refused(model, message):
    if isinstance(model, str):
        with torch.device("meta"):
            model = timm.create_model(model)
    with pytest.raises(ValueError, match=message):
        receptive_field(model)


@pytest.mark.parametrize("act_layer", ["gelu", "prelu", "hard_mish", "mish", "tanh", "selu", nn.LeakyReLU])
def test_activations_of_torch_and_timm_see_each_pixel_alone(act_layer):
    model = Timm("rf29_resnet18", options=dict(channels=(4, 4, 4, 4), act_layer=act_layer)).model
    assert model.window.size == 29


# the networks see their windows


def positive(name):
    """A network in which every path between a pixel and a patch counts, and none is cancelled by another."""
    model = narrow(name, zero_init_last=False).double()
    for parameter in model.parameters():
        parameter.data.abs_()
    return model


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("name", NAMED)
def test_a_patch_depends_on_every_pixel_of_its_window_and_on_no_other(name, padding):
    torch.manual_seed(0)
    model = positive(name)
    pad_by(model, padding)
    size, stride = NAMED[name][:2]
    n_images = 16 if isinstance(model.maxpool, nn.MaxPool2d) else 1  # so that every pixel is a maximum in one of them
    image = (
        torch.rand(n_images, 3, size + 2 * stride + 5, size + 2 * stride, dtype=torch.float64) ** 16
    )  # dark, few lights
    h, w = (-(-side // stride) for side in image.shape[-2:])
    for row, column in [(h // 2, w // 2), (0, 0), (h - 1, w - 1), (0, w // 2)]:
        inside = [
            torch.tensor([p in model.window.pixels(n) for p in range(side)])
            for n, side in zip((row, column), image.shape[-2:], strict=True)
        ]
        assert torch.equal(seen_by(model, image, (row, column)), inside[0][:, None] & inside[1])
    centre = model.window.pixels(h // 2)
    assert len(centre) == size and centre[0] >= 0 and centre[-1] < image.shape[-2]


@pytest.mark.parametrize("name", NAMED)
def test_every_strideth_pixel_is_the_centre_of_a_window(name):
    with torch.device("meta"):
        window = narrow(name).window
    size, stride = NAMED[name][:2]
    assert window == Window(size, stride, -(size // 2))


# what may be chosen


@pytest.mark.parametrize(
    "name, block, layers", [("resnet18", BasicBlock, (2, 2, 2, 2)), ("resnet50", Bottleneck, (3, 4, 6, 3))]
)
def test_with_all_kernels_3_it_is_timms_resnet(name, block, layers):
    theirs = randomized(timm.create_model(name).eval())
    ours = RFResNet(block, layers, kernels=3).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 64, 49)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels))
    assert ours.feature_info == theirs.feature_info


def test_weights_of_a_plain_network_load_where_shapes_agree():
    ours = timm.create_model("rf99_resnet50")
    theirs = timm.create_model("resnet50").state_dict()
    report = load(ours, theirs, strict=False)
    assert {name.partition(" ")[0] for name in report.misshapen} == {
        f"layer{s}.{b}.conv2.weight" for s, n in ((3, 6), (4, 3)) for b in range(n)
    }
    assert all(name.startswith("mlp.") for name in report.missing) and not report.unexpected
    assert torch.equal(ours.layer2[3].conv2.weight, theirs["layer2.3.conv2.weight"])


def test_v1_has_the_stride_on_the_first_convolution_and_v1_5_on_the_second():
    for stride_on, strides in (("1x1", (2, 1, 1)), ("3x3", (1, 2, 1))):
        net = RFResNet(Bottleneck, (1, 2, 1, 1), kernels=3, stride_on=stride_on, channels=(4, 4, 4, 4))
        for block, expected in ((net.layer2[0], strides), (net.layer2[1], (1, 1, 1))):
            assert tuple(conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)) == expected


@pytest.mark.parametrize(
    "kernels, expected",
    [
        (3, ["33", "33", "33", "33", "33"]),
        ((3, 3, 1, 1), ["33", "33", "33", "11", "11"]),
        ((1, (3, 1), 1, 3), ["11", "33", "11", "11", "33"]),
        ([[[3, 1]], [[1, 3], 1], 1, 1], ["31", "13", "11", "11", "11"]),
    ],
)
def test_a_kernel_size_stands_for_everything_below_it(kernels, expected):
    net = RFResNet(BasicBlock, (1, 2, 1, 1), kernels=kernels, channels=(4, 4, 4, 4))
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
    assert [f"{block.conv1.kernel_size[0]}{block.conv2.kernel_size[0]}" for block in blocks] == expected


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kernels=2), "kernels=2, but it must be 1, 3, or one entry for each of 4 stages"),
        (dict(kernels=(3, 3, 1)), r"kernels=\(3, 3, 1\), but it must be 1, 3, or one entry for each of 4 stages"),
        (dict(kernels="3311"), "kernels='3311', but it must be of the type int"),
        (dict(kernels=(3, 3, 1, 5)), r"kernels\[3\]=5, but it must be 1, 3, or one entry for each of 2 blocks"),
        (dict(kernels=(3, (3, 1, 1), 1, 1)), r"kernels\[1\]=\(3, 1, 1\), but .* for each of 2 blocks"),
        (dict(kernels=(3, (3, (3, 1, 1)), 1, 1)), r"kernels\[1\]\[1\]=\(3, 1, 1\), but .* each of 2 convolutions"),
        (dict(kernels=(3, (3, (3, 7)), 1, 1)), r"kernels\[1\]\[1\]=\(3, 7\), but a convolution has kernel size 1 or 3"),
        (dict(receptive_field=30), "receptive_field=30, but these layers, kernels and strides make it 29: give that"),
        (dict(layers=(2, 2, 2)), r"layers=\(2, 2, 2\), but it must have one number above 0 for each of the 4 stages"),
        (dict(layers=2), "layers=2, but it must have one number above 0 for each of the 4 stages"),
        (dict(channels="4444"), "channels='4444', but it must be of the type Sequence"),
        (dict(strides=(1, 2, 2, 2, 2)), "strides=.*, but it must have one number above 0 for each of the 4 stages"),
        (dict(channels=(4, 0, 4, 4)), r"channels=\(4, 0, 4, 4\), but it must be made of numbers at least 1"),
        (dict(stride_on="1x1"), "stride_on='1x1', but a BasicBlock has no 1x1 convolution"),
        (dict(stride_on="5x5"), "stride_on='5x5', but it must be '1x1' or '3x3'"),
        (dict(stem="5x5"), "stem='5x5', but it must be '7x7' or '3x3' or"),
        (dict(mlp_layers=-1), "mlp_layers=-1, but it must be at least 0"),
        (dict(mlp_layers=1, mlp_hidden=8), "mlp_hidden=8, but with mlp_layers=1 there is no hidden layer"),
        (dict(global_pool="catavgmax"), "global_pool='catavgmax', but it must be 'avg' or"),
        (dict(norm_layer="groupnorm"), "RFResNet.bn1 is a GroupNorm, of which it is not known"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        timm.create_model("rf29_resnet18", **options)


@pytest.mark.parametrize("layers", [3, (3, 4, 6)])
def test_a_bagnet_says_what_is_wrong_with_its_layers(layers):
    with pytest.raises(ValueError, match=re.escape(f"layers={layers!r}, but it must have one number above 0 for each")):
        timm.create_model("bagnet17", layers=layers)


@pytest.mark.parametrize("options", [dict(output_stride=8), dict(aa_layer="blurpc"), dict(block_args={})])
def test_options_of_timm_that_it_does_not_have_are_refused(options):
    with torch.device("meta"), pytest.raises(TypeError, match="unexpected keyword argument"):
        timm.create_model("rf29_resnet18", **options)


def test_a_first_stage_with_a_stride_has_a_shortcut():
    net = RFResNet(BasicBlock, (1, 1, 1, 1), kernels=3, strides=(2, 1, 1, 2), stem="3x3", channels=(4, 4, 4, 4)).eval()
    assert net.forward_features(torch.randn(1, 3, 16, 16)).shape == (1, 4, 4, 4)
    assert net.layer1[0].downsample is not None and net.layer2[0].downsample is None


# behind the pooling


@pytest.mark.parametrize(
    "options, widths",
    [
        (dict(mlp_layers=0), []),
        (dict(mlp_layers=1), [(4, 4)]),
        (dict(mlp_layers=2), [(4, 4), (4, 4)]),
        (dict(mlp_layers=3, mlp_hidden=6), [(4, 6), (6, 6), (6, 4)]),
    ],
)
def test_the_mlp_has_the_depth_and_width_asked_for(options, widths):
    net = randomized(narrow("rf29_resnet18", **options))
    linear = [module for module in net.mlp.modules() if isinstance(module, nn.Linear)]
    assert [(module.in_features, module.out_features) for module in linear] == widths
    with torch.no_grad():
        features = net.forward_features(torch.randn(3, 3, 32, 40))
        x = features.mean(dim=(2, 3))
        for n, layer in enumerate(linear):
            x = layer(x)
            if n < len(linear) - 1:
                x = torch.relu(net.mlp[3 * n + 1](x))
        torch.testing.assert_close(net.forward_head(features, pre_logits=True), x)


def test_a_map_that_is_not_pooled_stays_as_it_is():
    net = narrow("rf29_resnet18")
    net.reset_classifier(0, "")
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(pixels), net.forward_features(pixels))


# what timm makes of them


@pytest.mark.parametrize("name", NAMED)
def test_timm_knows_it_and_what_it_says_of_it_is_so(name):
    _, _, width, n_parameters = NAMED[name]
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=10)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 10)
        n_classifier = sum(p.numel() for p in net.fc.parameters())
        assert sum(p.numel() for p in net.parameters()) - n_classifier == n_parameters
        assert net.num_features == width
        assert (
            net.forward_features(torch.empty(1, *net.pretrained_cfg["input_size"])).shape[2:]
            == (net.pretrained_cfg["pool_size"])
        )
        assert net.get_submodule(net.pretrained_cfg["first_conv"]).in_channels == 3
        assert timm.create_model(name, in_chans=1)(torch.empty(2, 1, 32, 32)).shape == (2, 1000)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True, **NARROW)


@pytest.mark.parametrize("name", NAMED)
def test_maps_of_all_stages_are_those_that_timm_announces(name):
    torch.manual_seed(0)
    net = randomized(narrow(name))
    only = timm.create_model(name, features_only=True, **NARROW).eval()
    only.load_state_dict(net.state_dict(), strict=False)
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        last, maps = net.forward_intermediates(pixels)
        for here, there, info in zip(maps, only(pixels), net.feature_info, strict=True):
            torch.testing.assert_close(here, there)
            assert here.shape == (1, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
        assert torch.equal(last, net.forward_features(pixels))
    assert only.feature_info.reduction() == [info["reduction"] for info in net.feature_info]


def test_options_override_those_of_a_name():
    net = narrow("bagnet17", layers=(1, 2, 1, 1))
    assert net.window.size == 17 and len(net.layer2) == 2  # only first blocks matter
    net = narrow("rf29_resnet18", layers=(1, 1, 1, 1), kernels=(3, 1, 1, 1), receptive_field=7)
    assert net.window == Window(size=7, stride=8, start=-3)


def test_stochastic_depth_rises_as_in_timms_resnet():
    ours = narrow("rf29_resnet18", drop_path_rate=0.3)
    theirs = timm.create_model("resnet18", drop_path_rate=0.3)
    rates = [
        [getattr(block.drop_path, "drop_prob", None) for n in range(1, 5) for block in getattr(net, f"layer{n}")]
        for net in (ours, theirs)
    ]
    assert rates[0] == pytest.approx(rates[1])


# as a backbone


class TestAsABackbone(BackboneContract):
    def make(self):
        return Timm("rf29_resnet18", options=dict(channels=(4, 4, 4, 8), drop_rate=0.5), drop_path=0.5)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("h, w", [(64, 64), (33, 47), (100, 31)])
def test_a_backbone_has_patches_at_any_size(name, h, w):
    backbone = Timm(name, options=dict(channels=(4, 4, 4, 4))).eval()
    image, patches, grid = backbone(torch.randn(2, 3, h, w))
    stride = NAMED[name][1]
    assert grid == (-(-h // stride), -(-w // stride))
    assert image.shape == (2, backbone.dim) and patches.shape == (2, grid[0] * grid[1], backbone.dim)
    torch.testing.assert_close(image, backbone.model.mlp(patches.mean(dim=1)))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_what_is_exported_loads_again_where_its_module_is_imported(padding, tmp_path):
    options = dict(channels=(4, 4, 4, 4), kernels=(3, ((3, 1), 1), 1, 1), receptive_field=13, mlp_hidden=6)
    backbone = Timm("rf29_resnet18", options=options, padding=padding)
    randomized(backbone.eval())
    code = export_timm(backbone, tmp_path / "out", image_size=32)
    assert "import sslkit.backbones.rf_named; import timm; model = timm.create_model(" in code
    names = {}
    exec(code, names)
    pixels = torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(names["model"].eval()(pixels), backbone(pixels)[0])
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "padding": padding, "module": "sslkit.backbones.rf_named"}


@pytest.mark.parametrize("name, layer", [("resnet18", 2), ("vit_tiny_patch16_224", 0)])
def test_what_is_exported_says_which_layer_its_patches_came_out_of(name, layer, tmp_path):
    options = dict(depth=2, embed_dim=12, num_heads=2) if "vit" in name else dict(channels=(4, 6, 8, 10))
    backbone = Timm(name, options=options, patch_layer=layer).eval()
    code = export_timm(backbone, tmp_path / "out", image_size=224)
    names = {}
    exec(code, names)
    names["model"].eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(names["patches"](pixels), backbone(pixels)[1])
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["patch_layer"] == str(layer)


@pytest.mark.slow
def test_timm_alone_does_not_know_what_is_exported(tmp_path):
    export_timm(Timm("bagnet9", options=dict(channels=(4, 4, 4, 4))), tmp_path / "out", image_size=32)
    code = f"import timm; timm.create_model('local-dir:{tmp_path / 'out'}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Unknown model (bagnet9)" in done.stderr


# the docs


def test_the_page_shows_the_numbers_of_the_networks():
    page = (ROOT / "docs" / "rf_resnet.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| ([\d.]+) M \| (\d+) x (\d+) \|", page, re.MULTILINE)
    assert [(name, int(size), int(stride), millions) for name, size, stride, millions, _, _ in rows] == [
        (name, size, stride, f"{n / 1e6:.1f}") for name, (size, stride, _, n) in NAMED.items()
    ]
    for name, *_, h, w in rows:
        assert (int(h), int(w)) == timm.get_pretrained_cfg(name).pool_size
