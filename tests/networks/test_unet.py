import pytest
import torch

from medcl import networks
from medcl.errors import MedclError
from medcl.networks.transfer import transfer
from medcl.networks.unet import UNet, kernel_at

CUBE = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
FLAT = [[1, 1, 1], [2, 2, 1], [2, 2, 2]]


def test_feature_maps_go_from_fine_to_coarse() -> None:
    network = UNet(1, FLAT, 3, width=4)
    features = network.encode(torch.zeros(2, 1, 8, 8, 4))
    assert [tuple(f.shape[1:]) for f in features] == [(4, 8, 8, 4), (8, 4, 4, 4), (16, 2, 2, 2)]
    assert network.decode(features, until=1).shape == (2, 8, 4, 4, 4)
    assert network(torch.zeros(2, 1, 8, 8, 4)).shape == (2, 3, 8, 8, 4)


def test_thick_slices_are_not_mixed_before_their_axis_is_due() -> None:
    assert kernel_at(FLAT, 0) == (3, 3, 1)
    assert kernel_at(FLAT, 1) == (3, 3, 3)
    assert kernel_at(CUBE, 0) == (3, 3, 3)


def test_a_2d_network_is_the_same_code() -> None:
    network = UNet(3, [[1, 1], [2, 2]], 2, width=4)
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 8, 8)


def test_a_size_the_strides_do_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match=r"axis 1 has 6 voxels, which 4"):
        UNet(1, CUBE, 2, width=2).encode(torch.zeros(1, 1, 8, 6, 8))


def test_no_convolution_before_a_norm_has_a_bias() -> None:
    network = UNet(1, CUBE, 2, width=2)
    assert [n for n, _ in network.named_parameters() if n.endswith("0.bias")] == []


def test_an_unknown_network_or_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(MedclError, match="did you mean 'unet'"):
        networks.build({"name": "unett"}, channels_in=1, strides=CUBE, channels_out=2)
    with pytest.raises(MedclError, match=r"network\.widht"):
        networks.build({"name": "unet", "widht": 3}, channels_in=1, strides=CUBE, channels_out=2)


def test_an_encoder_is_taken_and_the_rest_is_named() -> None:
    source, target = UNet(1, CUBE, 1, width=2), UNet(1, CUBE, 3, width=2)
    before = target.head.weight.clone()
    report = transfer(target, source.state_dict(), ["down."])
    assert report.share == 1
    assert torch.equal(target.down[0][0][0].weight, source.down[0][0][0].weight)
    assert torch.equal(target.head.weight, before)
    assert report.not_taken["head.weight"] == "not trained by the pretext task"


def test_too_few_tensors_are_an_error() -> None:
    wide = UNet(1, CUBE, 1, width=4)
    with pytest.raises(MedclError, match="only 0 % of the parameters fit"):
        transfer(UNet(1, CUBE, 3, width=2), wide.state_dict(), ["down."])
