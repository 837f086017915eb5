import numpy as np
import pytest
import torch
from torch import nn

from medcl.networks.unet import UNet
from medcl.segmentation.inference import predict_probabilities


class Pointwise(nn.Module):
    """Logits 0 and 3 x of the first channel; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        assert torch.is_inference_mode_enabled()
        assert not self.training
        self.seen.append(x.clone())
        return torch.cat([torch.zeros_like(x[:, :1]), 3 * x[:, :1]], dim=1)


def image(shape, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 8, 8), (19, 8, 11), (5, 20, 8), (3, 2, 1)])
def test_windows_blend_without_a_seam(shape):
    x = image(shape)
    got = predict_probabilities(Pointwise(), x, (8, 8, 8), fill=(0.0,))
    assert got.dtype == np.float32
    expected = 1 / (1 + np.exp(-3 * x[0]))
    np.testing.assert_allclose(got, np.stack([1 - expected, expected]), atol=1e-5)


def test_a_volume_smaller_than_the_crop_is_padded_with_the_fill_of_each_channel():
    network, x = Pointwise(), image((3, 4, 8), channels=2)
    predict_probabilities(network, x, (8, 4, 8), fill=(-1.5, 7.0))
    (window,) = network.seen
    assert window.shape == (1, 2, 8, 4, 8)
    np.testing.assert_array_equal(window[0, :, 2:5], x)
    for channel, value in ((0, -1.5), (1, 7.0)):
        assert (window[0, channel, :2] == value).all()
        assert (window[0, channel, 5:] == value).all()


def test_the_middle_of_a_window_counts_more_than_its_edge():
    class Edges(nn.Module):
        """Says 1 in the outer quarters of a window along x, and 0 in its middle."""

        def forward(self, x):
            logit = torch.full_like(x[:, :1], -5)
            logit[:, :, :2] = logit[:, :, -2:] = 5
            return torch.cat([torch.zeros_like(logit), logit], dim=1)

    got = predict_probabilities(Edges(), image((24, 4, 4)), (8, 4, 4), fill=(0.0,), overlap=0.5)
    # Each inner voxel lies in the outer quarter of one window and in the middle of another.
    assert (got[1, 4:20, 1:3, 1:3] < 0.1).all()
    assert (got[1, [0, 1, -2, -1]] > 0.9).all()


def test_a_unet_on_one_crop_gives_its_own_softmax():
    torch.manual_seed(0)
    network = UNet(1, [(1, 1, 1), (2, 2, 2)], 3, width=4).eval()
    x = image((8, 8, 8))
    with torch.no_grad():
        expected = network(torch.from_numpy(x)[None]).softmax(1)[0].numpy()
    got = predict_probabilities(network, x, (8, 8, 8), fill=(0.0,))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-6)


def test_the_number_of_windows_computed_together_does_not_matter():
    torch.manual_seed(0)
    network, x = UNet(1, [(1, 1, 1), (2, 2, 2)], 2, width=4), image((12, 20, 9))
    one, many = (
        predict_probabilities(network, x, (8, 8, 8), fill=(0.0,), batch=batch) for batch in (1, 5)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_overlap_adds_windows():
    counts = []
    for overlap in (0.0, 0.5):
        network = Pointwise()
        predict_probabilities(network, image((16, 8, 8)), (8, 8, 8), fill=(0.0,), overlap=overlap)
        counts.append(sum(len(windows) for windows in network.seen))
    assert counts == [2, 3]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_in_the_mode_it_was_in(training):
    network = Pointwise().train(training)
    predict_probabilities(network, image((4, 4, 4)), (4, 4, 4), fill=(0.0,))
    assert network.training is training
