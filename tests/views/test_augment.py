import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from medcl.views.augment import Augment, apply, covered

NOTHING = Augment(
    **{field.name: (0.0, 0.0) for field in dataclasses.fields(Augment) if field.name != "flip"}
)
EVERYTHING = Augment(
    flip=(0.5, 0.5, 0.5),
    rotate=(1.0, 30.0),
    scale=(1.0, 0.2),
    shift=(1.0, 2.0),
    bias=(1.0, 0.3),
    gamma=(1.0, 0.4),
    gain=(1.0, 0.3),
    offset=(1.0, 0.3),
    blur=(1.0, 1.0),
    coarse=(1.0, 1.0),
    noise=(1.0, 0.2),
)
ISOTROPIC = (1.0, 1.0, 1.0)


def only(**strengths):
    return dataclasses.replace(NOTHING, **strengths)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=3, channels=2, shape=(8, 9, 10)):
    return torch.rand(batch, channels, *shape, generator=seeded(7))


def smooth(batch=2, shape=(12, 16, 10)):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(batch, 1, *shape)).astype(np.float32)
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 2, 2, 2)))


def test_strengths_of_zero_change_no_bit():
    given = images()
    labels = torch.randint(0, 4, (3, 8, 9, 10), generator=seeded(1), dtype=torch.uint8)
    out, moved = apply(given, labels, NOTHING.draw(3, ISOTROPIC, seeded()))
    assert torch.equal(out, given)
    assert torch.equal(moved, labels)


def test_a_batch_changed_at_once_equals_its_samples_changed_one_by_one():
    given = images(5)
    labels = torch.randint(0, 4, (5, 8, 9, 10), generator=seeded(1), dtype=torch.uint8)
    draw = Augment(rotate=(0.6, 30.0), noise=(0.6, 0.2), blur=(0.6, 1.0), coarse=(0.6, 1.0)).draw(
        5, (1.0, 2.0, 1.5), seeded(3)
    )
    together, labels_together = apply(given, labels, draw)
    for i in range(5):
        alone, labels_alone = apply(given[i : i + 1], labels[i : i + 1], draw.rows([i]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
        assert torch.equal(labels_alone[0], labels_together[i])


def test_the_same_draw_gives_the_same_noise_and_the_given_tensors_stay():
    given = images()
    before = given.clone()
    draw = EVERYTHING.draw(3, ISOTROPIC, seeded())
    assert torch.equal(apply(given, None, draw)[0], apply(given, None, draw)[0])
    assert torch.equal(given, before)


def test_each_sample_has_noise_of_its_own():
    draw = only(noise=(1.0, 1.0)).draw(2, ISOTROPIC, seeded())
    given = images(1).expand(2, -1, -1, -1, -1)
    noise = (apply(given, None, draw)[0] - given) / draw.noise.view(-1, 1, 1, 1, 1)
    assert not torch.allclose(noise[0], noise[1], atol=0.1)


def test_the_same_generator_state_draws_the_same_and_another_differs():
    first, again, other = (EVERYTHING.draw(4, ISOTROPIC, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.seeds, again.seeds)
    assert not torch.equal(first.matrix, other.matrix)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_an_axis_reverses_it(axis):
    flip = tuple(1.0 if a == axis else 0.0 for a in range(3))
    given = images()
    labels = torch.randint(0, 4, (3, 8, 9, 10), generator=seeded(1), dtype=torch.uint8)
    out, moved = apply(given, labels, only(flip=flip).draw(3, (1.0, 3.0, 2.0), seeded()))
    torch.testing.assert_close(out, given.flip(2 + axis), rtol=0, atol=1e-5)
    assert torch.equal(moved, labels.flip(1 + axis))


def test_voxels_come_from_where_the_matrix_in_mm_says():
    """Against scipy's map_coordinates, at places computed voxel by voxel."""
    given, spacing = smooth(), (1.0, 0.8, 2.5)
    draw = only(rotate=(1.0, 40.0), scale=(1.0, 0.3), shift=(1.0, 2.0)).draw(2, spacing, seeded(5))
    labels = (given[:, 0] > 0).to(torch.uint8)
    out, moved = apply(given, labels, draw)
    shape = given.shape[2:]
    centre = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for i in range(2):
        mm = (index - centre) * spacing
        matrix = draw.matrix[i].numpy().astype(float)
        source = (mm @ matrix[:3, :3].T + matrix[:3, 3]) / spacing + centre
        places = np.moveaxis(source, -1, 0)
        expected = ndimage.map_coordinates(given[i, 0].numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(out[i, 0].numpy(), expected, atol=1e-4)
        nearest = ndimage.map_coordinates(labels[i].numpy(), places, order=0, mode="nearest")
        assert (moved[i].numpy() == nearest).mean() > 0.999
        inside = ((source >= -0.5) & (source <= np.array(shape) - 0.5)).all(-1)
        assert (covered(draw, shape)[i].numpy() == inside).mean() > 0.999


def test_a_rotation_is_rigid_in_mm_whatever_the_spacing():
    draw = only(rotate=(1.0, 30.0)).draw(4, (1.0, 1.0, 5.0), seeded())
    linear = draw.matrix[:, :3, :3]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(3).expand(4, 3, 3))
    angles = torch.rad2deg(torch.atan2(linear[:, 2, 1], linear[:, 2, 2]))
    assert (angles.abs() <= 30).all()
    assert (angles.abs() > 1).any()


def test_a_shift_is_drawn_in_voxels():
    spacing = torch.tensor([1.0, 2.0, 5.0])
    draw = only(shift=(1.0, 3.0)).draw(50, (1.0, 2.0, 5.0), seeded())
    voxels = draw.matrix[:, :3, 3] / spacing
    assert (voxels.abs() <= 3).all()
    assert (voxels.abs().amax(0) > 2).all()


def test_a_zoom_above_one_enlarges():
    shape = (16, 16, 16)
    ball = torch.zeros(1, 1, *shape)
    ball[..., 5:11, 5:11, 5:11] = 1
    for seed in range(4):
        draw = only(scale=(1.0, 0.4)).draw(1, ISOTROPIC, seeded(seed))
        zoom = 1 / float(draw.matrix[0, 0, 0])
        out, _ = apply(ball, None, draw)
        assert (out.sum() > ball.sum()) == (zoom > 1)


def test_what_comes_from_outside_is_not_covered():
    draw = only(shift=(1.0, 1.0)).draw(1, ISOTROPIC, seeded())
    draw.matrix[0, :3, 3] = torch.tensor([2.0, 0.0, 0.0])
    seen = covered(draw, (8, 4, 4))
    assert seen[0, :6].all()
    assert not seen[0, 6:].any()


@pytest.mark.parametrize(
    "name", ["bias", "gamma", "gain", "offset", "blur", "coarse", "noise", "rotate"]
)
def test_changes_do_not_depend_on_the_scale_of_the_intensities(name):
    given = images()
    draw = only(**{name: (1.0, 0.5)}).draw(3, ISOTROPIC, seeded())
    out = apply(given, None, draw)[0]
    assert (out - given).abs().max() > 1e-3
    scaled = apply(3 * given - 7, None, draw)[0]
    torch.testing.assert_close(scaled, 3 * out - 7, rtol=1e-4, atol=1e-4)


def test_gain_offset_and_noise_have_the_drawn_size():
    given = torch.randn(2, 1, 20, 20, 20, generator=seeded()) * 4 + 10
    std = given.std((2, 3, 4), correction=0).flatten()
    draw = only(gain=(1.0, 0.5), offset=(1.0, 0.5)).draw(2, ISOTROPIC, seeded(1))
    out = apply(given, None, draw)[0]
    torch.testing.assert_close(out.std((2, 3, 4), correction=0).flatten(), std * draw.gain)
    rise = (out.mean((2, 3, 4)) - given.mean((2, 3, 4))).flatten()
    torch.testing.assert_close(rise, std * draw.offset, rtol=1e-3, atol=1e-3)
    draw = only(noise=(1.0, 0.5)).draw(2, ISOTROPIC, seeded(2))
    noise = (apply(given, None, draw)[0] - given).std((2, 3, 4)).flatten()
    torch.testing.assert_close(noise, std * draw.noise, rtol=0.05, atol=0)


def test_gamma_keeps_the_extremes_and_raises_what_lies_between():
    given = torch.tensor([0.0, 1.0, 2.0, 4.0]).view(1, 1, 4, 1, 1)
    draw = only(gamma=(1.0, 0.5)).draw(1, ISOTROPIC, seeded())
    out = apply(given, None, draw)[0].flatten()
    gamma = float(draw.gamma[0])
    expected = torch.tensor([0.0, 4 * 0.25**gamma, 4 * 0.5**gamma, 4.0])
    torch.testing.assert_close(out, expected)


def test_the_blur_is_scipys_gaussian():
    given = smooth()
    draw = only(blur=(1.0, 1.0)).draw(2, ISOTROPIC, seeded(4))
    out = apply(given, None, draw)[0]
    for i in range(2):
        sigma = float(draw.blur[i])
        expected = ndimage.gaussian_filter(given[i, 0].numpy(), sigma, mode="nearest", radius=3)
        np.testing.assert_allclose(out[i, 0].numpy(), expected, atol=1e-5)


def test_a_constant_sample_stays_finite():
    out, _ = apply(torch.full((2, 1, 8, 8, 8), 3.0), None, EVERYTHING.draw(2, ISOTROPIC, seeded()))
    assert out.isfinite().all()
    torch.testing.assert_close(out, torch.full_like(out, 3.0))


def test_a_probability_is_the_share_of_changed_samples():
    draw = only(noise=(0.3, 1.0), flip=(0.2, 0.0, 0.0)).draw(4000, ISOTROPIC, seeded())
    assert float((draw.noise > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert float((draw.matrix[:, 0, 0] < 0).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_a_slice_moves_within_itself_as_a_volume_of_equal_slices_does():
    size = (12, 16, 1)
    strengths = only(flip=(0.5, 0.5, 1.0), rotate=(1.0, 30.0), scale=(1.0, 0.2), shift=(1.0, 2.0))
    draw = strengths.draw(3, (1.0, 2.0, 8.0), seeded(2), size=size)
    linear = draw.matrix[:, :2, :2]
    assert torch.equal(draw.matrix[:, 2], torch.tensor([0.0, 0, 1, 0]).expand(3, 4))
    assert not draw.matrix[:, :2, 2].any()
    scale = torch.linalg.det(linear).abs().sqrt()[:, None, None]
    torch.testing.assert_close((linear / scale) @ (linear / scale).mT, torch.eye(2).expand(3, 2, 2))
    flat = smooth(3)[..., :1]
    alone, _ = apply(flat, None, draw)
    stacked, _ = apply(flat.expand(-1, -1, -1, -1, 5), None, draw)
    torch.testing.assert_close(stacked[..., 2:3], alone)
    assert covered(draw, size).any()


def test_a_field_does_not_brighten_a_slice_by_what_it_does_across_it():
    draw = only(bias=(1.0, 0.5)).draw(1, ISOTROPIC, seeded())
    flat = smooth(1)[..., :1]
    across = dataclasses.replace(draw, bias=draw.bias * torch.tensor([0.0, 0.0, 1.0])[:, None])
    torch.testing.assert_close(apply(flat, None, across)[0], flat)


def test_a_volume_is_drawn_the_same_whether_its_size_is_said_or_not():
    draws = [EVERYTHING.draw(4, ISOTROPIC, seeded(), size=size) for size in (None, (8, 8, 8))]
    assert torch.equal(draws[0].matrix, draws[1].matrix)
    assert torch.equal(draws[0].seeds, draws[1].seeds)


def test_channels_are_changed_apart_in_intensity_and_together_in_space():
    x = torch.rand(3, 2, 6, 6, 4, generator=seeded())
    draw = Augment().draw(3, (1.0, 1.0, 2.0), seeded(), channels=2)
    assert draw.gamma.shape == (3, 2)
    assert draw.bias.shape == (3, 2, 3, 2)
    strengths = {name: (1.0, 0.5) for name in ("bias", "gamma", "gain", "offset", "blur")}
    strengths |= {"coarse": (1.0, 1.0), "rotate": (1.0, 20.0), "noise": (0.0, 0.0)}
    draw = only(**strengths).draw(3, (1.0, 1.0, 2.0), seeded(), channels=2)
    both, _ = apply(x, None, draw)
    intensity = ("bias", "gamma", "gain", "offset", "blur", "coarse", "noise")
    for channel in range(2):
        alone = {name: getattr(draw, name)[:, channel] for name in intensity}
        one, _ = apply(x[:, [channel]], None, dataclasses.replace(draw, **alone))
        torch.testing.assert_close(both[:, [channel]], one)
    assert not torch.allclose(draw.gamma[:, 0], draw.gamma[:, 1])
