import torch
from torch import nn

from sslkit.backbones.batch_norm import with_statistics


def test_statistics_are_those_of_the_images_and_the_network_given_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    pixels = 3 + 2 * torch.randn(8, 3, 6, 6)
    settled = with_statistics(network, pixels)
    made = settled(pixels)
    torch.testing.assert_close(made.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert not settled[1].training


def test_a_network_without_batch_norm_comes_back_itself():
    network = nn.Linear(2, 2)
    assert with_statistics(network, torch.zeros(1, 3, 2, 2)) is network
