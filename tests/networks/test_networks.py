"""What holds for every network, in 2-D and 3-D, whatever it is made of."""

from pathlib import Path

import pytest
import torch
from monai.networks import nets
from torch import nn

from medcl import networks
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.chaitanya_unet import Repeated
from medcl.networks.residual_unet import Residual
from medcl.networks.transfer import transfer
from medcl.training import checkpoint

CUBE = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
FLAT = [[1, 1, 1], [2, 2, 1], [2, 2, 2]]
SQUARE = [[1, 1], [2, 2], [2, 2]]
FIVE = [[1, 1, 1], *[[2, 2, 2]] * 5]
PAPER = [[1, 1], *[[2, 2]] * 5]
SMALL = {name: {"width": 2} for name in ("chaitanya_unet", "dynunet", "residual_unet", "unet")}
SMALL |= {"segresnet": {"width": 8}, "swin_unetr": {"width": 12, "window": 2}}
CASES = [
    ("unet", FLAT, (8, 12, 4)),
    ("unet", SQUARE, (8, 12)),
    ("residual_unet", FLAT, (8, 12, 4)),
    ("residual_unet", CUBE, (8, 12, 8)),
    ("residual_unet", SQUARE, (8, 12)),
    ("chaitanya_unet", PAPER, (64, 32)),
    ("chaitanya_unet", FLAT, (8, 12, 4)),
    ("dynunet", FLAT, (8, 12, 4)),
    ("dynunet", SQUARE, (8, 12)),
    ("segresnet", CUBE, (8, 12, 8)),
    ("segresnet", SQUARE, (8, 12)),
    ("swin_unetr", FIVE, (64, 32, 32)),
    ("swin_unetr", PAPER, (64, 32)),
]
EVERY = pytest.mark.parametrize(("name", "strides", "shape"), CASES, ids=str)
THIN = {"unet": SQUARE, "residual_unet": SQUARE, "dynunet": SQUARE, "segresnet": SQUARE}
THIN |= {"chaitanya_unet": PAPER, "swin_unetr": PAPER}


def small(name: str, strides: list[list[int]], channels_out: int = 3, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    options = {"name": name, **SMALL[name]}
    return networks.build(options, channels_in=2, strides=strides, channels_out=channels_out)


def image(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(1))


def test_every_network_is_covered_here() -> None:
    assert {name for name, _, _ in CASES} == set(networks.NETWORKS) == set(THIN)


@EVERY
def test_the_bottleneck_depends_on_what_is_named_as_such(
    name: str, strides: list[list[int]], shape: tuple[int, ...]
) -> None:
    network = small(name, strides)
    network.encode(image(shape))[-1].sum().backward()
    reached = {n for n, parameter in network.named_parameters() if parameter.grad is not None}
    names = [n for n, _ in network.named_parameters()]
    assert reached == {n for n in names if n.startswith(network.bottleneck)}


@EVERY
def test_maps_follow_the_strides_and_gradient_reaches_every_parameter(
    name: str, strides: list[list[int]], shape: tuple[int, ...]
) -> None:
    network = small(name, strides)
    x = image(shape)
    features = network.encode(x)
    sizes, size = [], list(shape)
    for stride in strides:
        size = [n // step for n, step in zip(size, stride, strict=True)]
        sizes.append(tuple(size))
    assert [tuple(f.shape[2:]) for f in features] == sizes
    assert [f.shape[1] for f in features] == network.channels
    for level in range(len(strides)):
        part = network.decode(features, until=level)
        assert part.shape == (1, network.channels[-1 - level], *sizes[-1 - level])
    out = network(x)
    assert out.shape == (1, 3, *shape)
    out.square().mean().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert torch.isfinite(value.grad).all(), parameter
        assert value.grad.any(), parameter


@EVERY
def test_all_but_the_last_layer_is_transferred(
    name: str, strides: list[list[int]], shape: tuple[int, ...]
) -> None:
    source, target = small(name, strides, channels_out=2), small(name, strides, seed=1)
    report = transfer(target, source.state_dict(), ["down.", "up.", "merge."])
    assert report.share == 1
    assert report.not_taken
    assert {part.split(".")[0] for part in report.not_taken} == {"head"}
    source.eval(), target.eval()
    x = image(shape)
    torch.testing.assert_close(target.decode(target.encode(x)), source.decode(source.encode(x)))


@pytest.mark.parametrize("name", THIN)
def test_a_2d_network_takes_slices_of_volumes_and_is_read_back_from_a_file(
    name: str, tmp_path: Path
) -> None:
    strides = [[step[0], 1, step[1]] for step in THIN[name]]
    plan = {"channels": 2, "strides": strides, "across": 1}
    options = {"name": name, **SMALL[name]}
    network = networks.build(options, channels_in=2, strides=strides, channels_out=3, across=1)
    content = {"kind": "segmentation", "status": "ok", "reason": None, "plan": plan}
    content |= {"classes": {"a": 1, "b": 2}, "network": options}
    content["weights"] = {"last": network.state_dict(), "selected": network.state_dict()}
    checkpoint.save(tmp_path / "model.pt", content)
    read, _ = checkpoint.load_model(tmp_path / "model.pt")
    x = image((64, 1, 32))
    with torch.no_grad():
        out = network.eval()(x)
        assert out.shape == (1, 3, 64, 1, 32)
        assert torch.equal(read(x), out)
        assert torch.equal(network(x[:, :, :, 0]), out[:, :, :, 0])
    with pytest.raises(ValueError, match="`crop` of 1 along axis 1"):
        network(image((64, 2, 32)))


def monai_of(name: str, dims: int) -> nn.Module:
    """MONAI's own network with the arguments of `small`."""
    torch.manual_seed(0)
    if name == "swin_unetr":
        return nets.SwinUNETR(2, 3, feature_size=12, window_size=2, spatial_dims=dims)
    if name == "segresnet":
        return nets.SegResNet(dims, 8, 2, 3, blocks_down=(1, 2, 2), blocks_up=(1, 1))
    kernels = [(3, 3, 1), (3, 3, 3), (3, 3, 3)] if dims == 3 else [(3, 3)] * 3
    strides = [tuple(stride) for stride in (FLAT if dims == 3 else SQUARE)]
    return nets.DynUNet(dims, 2, 3, kernels, strides, strides[1:], filters=[2, 4, 8])


@pytest.mark.parametrize(
    ("name", "strides", "shape"),
    [case for case in CASES if case[0] in ("swin_unetr", "segresnet", "dynunet")],
    ids=str,
)
def test_a_network_of_monai_computes_what_monai_does(
    name: str, strides: list[list[int]], shape: tuple[int, ...]
) -> None:
    ours, theirs = small(name, strides).eval(), monai_of(name, len(shape)).eval()
    x = image(shape)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert counts[0] == counts[1]


def test_strides_a_network_cannot_follow_are_refused_with_those_it_needs() -> None:
    with pytest.raises(MedclError, match=r"needs the strides \[\[1, 1, 1\], \[2, 2, 2\], \[2"):
        small("segresnet", FLAT)
    with pytest.raises(MedclError, match=r"multiples of 32, such as \[64, 64, 64\]"):
        small("swin_unetr", CUBE)
    with pytest.raises(MedclError, match=r"add a level to `plan\.strides`"):
        small("dynunet", CUBE[:2])
    options = {"name": "swin_unetr", "heads": [3, 6, 12, 7]}
    with pytest.raises(MedclError, match=r"\[24, 48, 96, 192\]; choose others"):
        networks.build(options, channels_in=1, strides=FIVE, channels_out=2)


def test_a_crop_swin_cannot_halve_five_times_is_refused_with_one_that_fits() -> None:
    network = small("swin_unetr", FIVE)
    with pytest.raises(ValueError, match=r"axis 1 has 48 voxels.*such as \(64, 64, 32\)"):
        network.encode(image((64, 48, 32)))
    with pytest.raises(ValueError, match="choose a `crop` of 64 along one axis"):
        network.encode(image((32, 32, 32)))


def test_a_class_from_outside_the_tree_must_be_a_network(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from medcl.networks.unet import UNet\n"
        "class Mine(UNet):\n    pass\n"
        "class Other:\n    pass\n"
    )
    mine = networks.build({"name": f"{file}:Mine"}, channels_in=1, strides=CUBE, channels_out=2)
    assert mine(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    with pytest.raises(MedclError, match="Other is no"):
        networks.build({"name": f"{file}:Other"}, channels_in=1, strides=CUBE, channels_out=2)


def test_the_papers_network_has_its_channels_and_its_number_of_weights() -> None:
    network = networks.build(
        {"name": "chaitanya_unet"}, channels_in=1, strides=PAPER, channels_out=4
    )
    channels = [16, 32, 64, 128, 128, 128]
    assert network.channels == channels
    expected, previous = 0, 1
    for own in channels:  # two 3x3 convolutions with scale and shift each
        expected += 9 * previous * own + 9 * own * own + 4 * own
        previous = own
    for own, below in zip(channels[-2::-1], channels[:0:-1], strict=True):
        expected += 4 * below * own + 2 * own  # 2x2 after the repetition
        expected += 9 * 2 * own * own + 9 * own * own + 4 * own
    expected += 16 * 4 + 4
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_map_goes_up_by_repetition_and_a_kernel_that_looks_ahead() -> None:
    up = Repeated(1, 1, (2, 1), "batch")
    up.convolve[1] = up.convolve[2] = nn.Identity()
    with torch.no_grad():
        up.convolve[0].weight.copy_(torch.tensor([[[[1.0], [10.0]]]]))
    out = up(torch.tensor([[[[1.0, 4.0], [2.0, 5.0]]]]))
    # columns 1, 1, 2, 2 and 4, 4, 5, 5; each voxel and ten times the next, 0 beyond the end
    assert out[0, 0].T.tolist() == [[11, 21, 22, 2], [44, 54, 55, 5]]


def test_a_residual_block_whose_convolutions_say_nothing_passes_the_mean_on() -> None:
    residual = Residual(3, 3, (3, 3), "instance", (2, 1))
    nn.init.zeros_(residual.second[1].weight)
    x = image((4, 4))[:, :1].repeat(1, 3, 1, 1)
    expected = (x[:, :, 0::2] + x[:, :, 1::2]) / 2
    torch.testing.assert_close(residual(x), expected)
