"""Random changes of a batch of crops: draw all numbers first, then apply them.

`Augment.draw` needs no image and `apply` draws nothing (the noise of a sample comes from the seed
in its draw), so a batch changed at once equals its samples changed one by one, on every rank and
after a resume.

In space, a crop is sampled once, at

    source = R F / z target + t        (mm from the centre of the crop)

with a rotation R, mirrored axes F, zoom z and translation t; mm make the rotation rigid where
voxels are not cubes. In intensity, each change is relative to the sample's own range or standard
deviation, so it means the same for z-scores and for values in 0..1. Channels are images of their
own: each is drawn and changed apart in intensity, and all move together in space. The order is
that of an image's making: field, tissue contrast, brightness, blur, voxel size, and noise last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

Strength = tuple[float, float]  # probability for a sample, and the largest value
Spacing = tuple[float, float, float]  # mm
Shape = tuple[int, ...]
SPACE = (2, 3, 4)
BLUR_RADIUS = 3  # voxels; holds 99 % of the largest useful sigma, 1.2
SEEDS = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What happens to each sample of a batch; small tensors on the CPU.

    matrix: from a place in the changed crop to its place in the given one, mm from the centre.
    bias: slope and curvature of the logarithm of the field along each axis. blur: sigma in voxels.
    coarse: voxels this many times larger. noise: in standard deviations of the sample. Intensity
    is drawn for each channel where there are several, else once.
    """

    spacing: Spacing
    matrix: Float[Tensor, "B 4 4"]
    bias: Float[Tensor, "B *C 3 2"]
    gamma: Float[Tensor, "B *C"]
    gain: Float[Tensor, "B *C"]
    offset: Float[Tensor, "B *C"]
    blur: Float[Tensor, "B *C"]
    coarse: Float[Tensor, "B *C"]
    noise: Float[Tensor, "B *C"]
    seeds: Int[Tensor, " B"]

    def rows(self, rows: Sequence[int]) -> Draw:
        """Keep the draws of these samples."""
        tensors = [field.name for field in fields(self) if field.name != "spacing"]
        return replace(self, **{name: getattr(self, name)[list(rows)] for name in tensors})


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Strengths; each but `flip` is (probability for a sample, largest value).

    flip: probability per axis; off, because mirroring exchanges left and right organs.
    rotate: degrees about each axis. scale: logarithm of the zoom. shift: voxels along each axis.
    bias: logarithm of a smooth field at the faces. gamma, gain: logarithm of the exponent of the
    values between the sample's extremes, and of its contrast. offset, noise: in the sample's
    standard deviations. blur: sigma in voxels. coarse: how much larger than 1 the voxels get.
    """

    flip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotate: Strength = (0.4, 20.0)
    scale: Strength = (0.4, 0.25)
    shift: Strength = (0.0, 0.0)
    bias: Strength = (0.2, 0.3)
    gamma: Strength = (0.3, 0.4)
    gain: Strength = (0.3, 0.25)
    offset: Strength = (0.3, 0.25)
    blur: Strength = (0.2, 1.0)
    coarse: Strength = (0.1, 1.0)
    noise: Strength = (0.2, 0.2)

    def draw(
        self,
        batch: int,
        spacing: Spacing,
        generator: torch.Generator,
        *,
        size: Sequence[int] | None = None,
        channels: int = 1,
    ) -> Draw:
        """Draw the changes of `batch` samples; `spacing` in mm, `generator` on the CPU.

        `size` is that of the crops: nothing moves along an axis of one voxel, because a slice has
        nothing beside it; as many numbers are drawn as for a volume. Intensity is drawn for each
        of several `channels`.
        """
        thin = [axis for axis, side in enumerate(size or ()) if side == 1]
        each = (batch,) if channels == 1 else (batch, channels)

        def uniform(strength: Strength, *shape: int, low: float = -1.0, of: Shape) -> Tensor:
            probability, largest = strength
            chosen = torch.rand(*of, generator=generator) < probability
            values = low + (1 - low) * torch.rand(*of, *shape, generator=generator)
            return values * largest * chosen.view(*of, *[1] * len(shape))

        mirrored = torch.rand(batch, 3, generator=generator) < torch.tensor(self.flip)
        angles = uniform(self.rotate, 3, of=(batch,))
        for axis in thin:  # a turn about another axis would lead out of the slice
            angles[:, [other for other in range(3) if other != axis]] = 0
        rotation = _rotation(torch.deg2rad(angles))
        zoom = uniform(self.scale, of=(batch,)).exp()[:, None].repeat(1, 3)
        zoom[:, thin], mirrored[:, thin] = 1, False
        matrix = torch.eye(4).repeat(batch, 1, 1)
        matrix[:, :3, :3] = rotation * ((1 - 2.0 * mirrored) / zoom)[:, None, :]
        matrix[:, :3, 3] = uniform(self.shift, 3, of=(batch,)) * torch.tensor(spacing)
        matrix[:, thin, 3] = 0
        return Draw(
            spacing=spacing,
            matrix=matrix,
            bias=uniform(self.bias, 3, 2, of=each),
            gamma=uniform(self.gamma, of=each).exp(),
            gain=uniform(self.gain, of=each).exp(),
            offset=uniform(self.offset, of=each),
            blur=uniform(self.blur, low=0.0, of=each),
            coarse=1 + uniform(self.coarse, low=0.0, of=each),
            noise=uniform(self.noise, low=0.0, of=each),
            seeds=torch.randint(SEEDS, (batch,), generator=generator),
        )


def apply(
    images: Float[Tensor, "B C X Y Z"],
    labels: Integer[Tensor, "B X Y Z"] | None,
    draw: Draw,
) -> tuple[Float[Tensor, "B C X Y Z"], Integer[Tensor, "B X Y Z"] | None]:
    """Change images (linear) and labels (nearest) as drawn; the given tensors stay as they are.

    What a rotation brings in from outside the crop repeats the nearest voxel of its border, in
    image and label alike; `covered` tells where.
    """
    images = images.clone()
    moved = _moved(draw)
    if moved:
        grid = _sampling_grid(draw.rows(moved), images.shape[2:], images.device)
        images[moved] = _sample(images[moved], grid, "bilinear")
        if labels is not None:
            labels = labels.clone()
            nearest = _sample(labels[moved].to(images.dtype)[:, None], grid, "nearest")
            labels[moved] = nearest[:, 0].round().to(labels.dtype)
    for changed, change in (
        (draw.bias != 0, _bend),
        (draw.gamma != 1, _raise),
        ((draw.gain != 1) | (draw.offset != 0), _stretch),
        (draw.blur > 0, _blur),
        (draw.coarse > 1, _coarsen),
        (draw.noise > 0, _add_noise),
    ):
        rows = changed.reshape(len(changed), -1).any(1).nonzero().flatten().tolist()
        if rows:
            images[rows] = change(images[rows], draw.rows(rows))
    return images, labels


def covered(
    draw: Draw, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Bool[Tensor, "B X Y Z"]:
    """Tell which voxels of the changed crops show something of the given ones."""
    seen = torch.ones((len(draw.seeds), *shape), dtype=torch.bool, device=device)
    moved = _moved(draw)
    if moved:
        grid = _sampling_grid(draw.rows(moved), shape, torch.device(device))
        # a flip alone lands on the faces, exactly but for rounding
        seen[moved] = (grid.abs() <= 1 + 1e-5).all(-1)
    return seen


def _moved(draw: Draw) -> list[int]:
    different = (draw.matrix != torch.eye(4)).flatten(1).any(1)
    return different.nonzero().flatten().tolist()


def _rotation(angles: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """About the first, then the second, then the third axis; angles in radians."""
    cos, sin = angles.cos(), angles.sin()
    total = torch.eye(3).repeat(len(angles), 1, 1)
    for axis, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        one = torch.eye(3).repeat(len(angles), 1, 1)
        one[:, a, a] = one[:, b, b] = cos[:, axis]
        one[:, a, b], one[:, b, a] = -sin[:, axis], sin[:, axis]
        total = one @ total
    return total


def _sampling_grid(
    draw: Draw, shape: Sequence[int], device: torch.device
) -> Float[Tensor, "B X Y Z 3"]:
    """Source of each voxel, from -1 to 1 between the outer faces, last axis first."""
    half = torch.tensor([n * s / 2 for n, s in zip(shape, draw.spacing, strict=True)])
    linear = draw.matrix[:, :3, :3] * half[None, None, :] / half[None, :, None]
    theta = torch.cat([linear, draw.matrix[:, :3, 3:] / half[None, :, None]], dim=2)
    order = [2, 1, 0]
    theta = theta[:, order][:, :, [*order, 3]]
    return F.affine_grid(theta.to(device), [len(theta), 1, *shape], align_corners=False)


def _sample(
    values: Float[Tensor, "B C X Y Z"], grid: Float[Tensor, "B X Y Z 3"], mode: str
) -> Float[Tensor, "B C X Y Z"]:
    return F.grid_sample(
        values, grid.to(values.dtype), mode=mode, padding_mode="border", align_corners=False
    )


def _per_channel(values: Float[Tensor, "B *C"], like: Tensor) -> Float[Tensor, "B c 1 1 1"]:
    """c is 1 where all channels share a value."""
    return values.to(like.device, like.dtype).reshape(len(like), -1, 1, 1, 1)


def _bend(x: Tensor, draw: Draw) -> Tensor:
    """Multiply what lies above the sample's minimum by a smooth field."""
    lowest = x.amin(SPACE, keepdim=True)
    bias = draw.bias.to(x.device, x.dtype).reshape(len(x), -1, 3, 2)
    out = x - lowest
    for axis, size in enumerate(x.shape[2:]):
        if size == 1:
            continue
        u = torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype)
        field = (bias[..., axis, :1] * u + bias[..., axis, 1:] * (u**2 - 1 / 3)).exp()
        shape = [*bias.shape[:2], 1, 1, 1]
        shape[2 + axis] = size
        out = out * field.view(shape)
    return out + lowest


def _raise(x: Tensor, draw: Draw) -> Tensor:
    """Raise the values, as a share of the sample's range, to the power gamma."""
    lowest = x.amin(SPACE, keepdim=True)
    width = (x.amax(SPACE, keepdim=True) - lowest).clamp_min(torch.finfo(x.dtype).tiny)
    return ((x - lowest) / width) ** _per_channel(draw.gamma, x) * width + lowest


def _stretch(x: Tensor, draw: Draw) -> Tensor:
    """Stretch the contrast about the sample's mean and add an offset."""
    std, mean = torch.std_mean(x, SPACE, keepdim=True, correction=0)
    gain = _per_channel(draw.gain, x)
    return x * gain + (mean * (1 - gain) + std * _per_channel(draw.offset, x))


def _blur(x: Tensor, draw: Draw) -> Tensor:
    """Smooth along each axis by a Gaussian; sums of shifted copies, one kernel a sample."""
    steps = torch.arange(BLUR_RADIUS + 1)
    weights = torch.exp(-0.5 * (steps / draw.blur[..., None].clamp_min(1e-3)) ** 2)
    weights = weights / (2 * weights.sum(-1, keepdim=True) - weights[..., :1])
    for axis in SPACE:
        padding = [0] * 6
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = BLUR_RADIUS
        padded = F.pad(x, padding, mode="replicate")
        size = x.shape[axis]
        x = x * _per_channel(weights[..., 0], x)
        for step in range(1, BLUR_RADIUS + 1):
            before = padded.narrow(axis, BLUR_RADIUS - step, size)
            after = padded.narrow(axis, BLUR_RADIUS + step, size)
            x = x + _per_channel(weights[..., step], x) * (before + after)
    return x


def _coarsen(x: Tensor, draw: Draw) -> Tensor:
    """Average into larger voxels and interpolate back."""
    factors = draw.coarse.reshape(len(x), -1).expand(-1, x.shape[1]).flatten().tolist()
    out = []
    for channel, factor in zip(x.flatten(0, 1).split(1), factors, strict=True):
        size = [max(1, round(n / factor)) for n in x.shape[2:]]
        small = F.interpolate(channel[None], size, mode="area")
        out.append(F.interpolate(small, x.shape[2:], mode="trilinear", align_corners=False)[0])
    return torch.cat(out).view_as(x)


def _add_noise(x: Tensor, draw: Draw) -> Tensor:
    noise = torch.empty_like(x)
    for sample, seed in zip(noise, draw.seeds.tolist(), strict=True):
        sample.normal_(generator=torch.Generator(x.device).manual_seed(seed))
    std = x.std(SPACE, keepdim=True, correction=0)
    return x + noise * (std * _per_channel(draw.noise, x))
