"""Augmentations against torch and torchvision image by image, and the distribution of what they draw."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from deepnets_utils.data.augment import (
    FlipCrop,
    FlipRotateCropJitter,
    augmentation,
    build_augmentation,
    jittered,
    sampling_grid,
)

BILINEAR = v2.InterpolationMode.BILINEAR
CHANGES = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(number: int, channels: int = 3, height: int = 20, width: int = 24) -> Tensor:
    return torch.rand(number, channels, height, width, generator=generator())


def smooth(number: int) -> Tensor:
    """The same coloured image without edges, 32x32 and not symmetric, so that interpolations hardly matter."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    image = torch.stack((0.3 + 0.4 * x, 0.6 - 0.3 * x * y, 0.5 + 0.2 * torch.sin(2.5 * (x - y))))
    return image.expand(number, -1, -1, -1)


def sampled(pixels: Tensor, flips: Tensor, angles: Tensor, crops: Tensor) -> Tensor:
    return F.grid_sample(pixels, sampling_grid(flips, angles, crops, *pixels.shape[2:]), align_corners=False)


def unchanged(pixels: Tensor) -> dict[str, Tensor]:
    """Arguments of `sampled` that change nothing."""
    number, _, height, width = pixels.shape
    crops = torch.tensor([0.0, 0, height, width]).expand(number, -1)
    return {"flips": torch.zeros(number, dtype=torch.bool), "angles": torch.zeros(number), "crops": crops}


# -- flip and crop --------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (3, 6, 9)])
@pytest.mark.parametrize("padding", [0, 2, 4])
def test_flip_crop_is_pad_crop_and_flip_of_each_image(channels: int, height: int, width: int, padding: int) -> None:
    pixels = noise(200, channels, height, width)
    chosen = FlipCrop(padding=padding)
    drawn = chosen.draw(200, generator())
    expected = []
    for image, (flip, top, left) in zip(pixels, drawn.int().tolist(), strict=True):
        padded = F.pad(image, [padding] * 4)
        cropped = padded[:, top : top + height, left : left + width]
        expected.append(cropped.flip(2) if flip else cropped)
    assert torch.equal(chosen.apply(pixels, drawn), torch.stack(expected))
    channels_last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(chosen.apply(channels_last, drawn), torch.stack(expected))


def test_flip_crop_draws_each_flip_and_place_as_often_as_another() -> None:
    drawn = FlipCrop(padding=4).draw(16_200, generator())
    counts = torch.bincount((81 * drawn[:, 0] + 9 * drawn[:, 1] + drawn[:, 2]).long(), minlength=162)
    assert len(counts) == 162
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


# -- flip, rotation, crop, jitter: against torchvision with given numbers -----------------------------


def test_nothing_drawn_gives_the_image_back() -> None:
    pixels = noise(4)
    torch.testing.assert_close(sampled(pixels, **unchanged(pixels)), pixels, rtol=0, atol=1e-5)
    factors, order = torch.ones(4, 3), torch.tensor([[0, 1, 2]] * 4)
    torch.testing.assert_close(jittered(pixels, factors, order), pixels, rtol=0, atol=1e-6)


def test_options_that_change_nothing_leave_the_flip() -> None:
    pixels = noise(50, 3, 32, 32)
    still = FlipRotateCropJitter(rotation=0, smallest_scale=1, jitter=0)
    drawn = still.draw(50, generator())
    flips, _ = still.turns(drawn)
    assert 10 < flips.sum() < 40
    expected = torch.where(flips[:, None, None, None], pixels.flip(3), pixels)
    torch.testing.assert_close(still.apply(pixels, drawn), expected, rtol=0, atol=1e-5)


def test_flip() -> None:
    pixels = noise(3)
    arguments = unchanged(pixels) | {"flips": torch.tensor([True, False, True])}
    expected = torch.stack((functional.horizontal_flip(pixels[0]), pixels[1], functional.horizontal_flip(pixels[2])))
    torch.testing.assert_close(sampled(pixels, **arguments), expected, rtol=0, atol=1e-5)


def test_rotation() -> None:
    pixels, angles = noise(6), torch.tensor([10.0, -10, 3.3, 90, -135, 180])
    expected = [functional.rotate(image, a, BILINEAR) for image, a in zip(pixels, angles.tolist(), strict=True)]
    arguments = unchanged(pixels) | {"angles": angles}
    torch.testing.assert_close(sampled(pixels, **arguments), torch.stack(expected), rtol=0, atol=1e-4)


def test_resized_crop() -> None:
    crops = torch.tensor([[1, 3, 17, 20], [0, 0, 20, 24], [2, 2, 10, 8], [0, 7, 20, 17], [19, 23, 1, 1]])
    pixels = noise(len(crops))
    expected = [
        functional.resized_crop(i, *crop, size=[20, 24]) for i, crop in zip(pixels, crops.tolist(), strict=True)
    ]
    arguments = unchanged(pixels) | {"crops": crops.float()}
    torch.testing.assert_close(sampled(pixels, **arguments), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_every_order(channels: int) -> None:
    orders = torch.tensor(list(itertools.permutations(range(3))))
    pixels, factors = noise(6, channels), 2 * torch.rand(6, 3, generator=generator(1))
    expected = []
    for image, factor, order in zip(pixels, factors.tolist(), orders.tolist(), strict=True):
        for kind in order:
            image = CHANGES[kind](image, factor[kind])
        expected.append(image)
    torch.testing.assert_close(jittered(pixels, factors, orders), torch.stack(expected), rtol=0, atol=1e-6)
    assert not torch.allclose(jittered(pixels, factors, orders.flip(1)), torch.stack(expected), atol=1e-2)


def test_all_of_it_is_torchvisions_chain_but_for_the_second_interpolation() -> None:
    pixels = smooth(60)
    chosen = FlipRotateCropJitter(rotation=40.0, smallest_scale=0.3, jitter=0.5)
    drawn = chosen.draw(60, generator())
    changed, insides = chosen.apply(pixels, drawn), 0
    numbers = zip(*chosen.turns(drawn), chosen.crops(drawn, 32, 32).int().tolist(), *chosen.jitters(drawn), strict=True)
    for k, (flip, angle, crop, factors, order) in enumerate(numbers):

        def geometry(image: Tensor, flip: Tensor = flip, angle: Tensor = angle, crop: list[int] = crop) -> Tensor:
            image = functional.horizontal_flip(image) if flip else image
            return functional.resized_crop(functional.rotate(image, angle.item(), BILINEAR), *crop, size=[32, 32])

        expected = geometry(pixels[k])
        for kind in order.tolist():
            expected = CHANGES[kind](expected, factors[kind].item())
        # At the edge of the black corners two interpolations blur more than one.
        inside = F.max_pool2d(1 - geometry(torch.ones(1, 32, 32)), 5, 1, 2) < 1e-3
        insides += inside.sum()
        torch.testing.assert_close(changed[k] * inside, expected * inside, rtol=0, atol=0.03)
    assert insides > 60 * 32 * 32 / 2


# -- what is drawn, against torchvision -----------------------------------------------------------------


def test_crops_are_distributed_as_torchvisions() -> None:
    number = 4000
    chosen = FlipRotateCropJitter(smallest_scale=0.6)
    crops = chosen.crops(chosen.draw(number, generator()), 32, 32)
    torch.manual_seed(1)
    reference = v2.RandomResizedCrop(32, scale=(0.6, 1))
    made = [reference.make_params([torch.empty(3, 32, 32)]) for _ in range(number)]
    expected = torch.tensor([[params[name] for name in ("top", "left", "height", "width")] for params in made])
    assert torch.equal(crops, crops.round()) and (crops[:, :2] >= 0).all() and (crops[:, 2:] >= 1).all()
    assert (crops[:, :2] + crops[:, 2:] <= 32).all()
    for ours, theirs in zip(crops.T, expected.T.float(), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 0.001
    for measure in (lambda c: c[:, 2] * c[:, 3], lambda c: c[:, 3] / c[:, 2], lambda c: c[:, 0] / (33 - c[:, 2])):
        assert stats.ks_2samp(measure(crops), measure(expected.float())).pvalue > 0.001


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    chosen = FlipRotateCropJitter(smallest_scale=1)
    drawn = chosen.draw(10, generator())
    drawn[:, 10:] = 1
    assert chosen.crops(drawn, 32, 32).tolist() == [[0, 0, 32, 32]] * 10
    drawn[0, 30 - 1] = 0.5
    assert chosen.crops(drawn, 32, 32)[0].tolist() == [0, 0, 32, 32]


def test_angles_factors_flips_and_orders() -> None:
    number = 20_000
    chosen = FlipRotateCropJitter(rotation=15, jitter=0.2)
    drawn = chosen.draw(number, generator())
    flips, angles = chosen.turns(drawn)
    factors, orders = chosen.jitters(drawn)
    assert stats.binomtest(int(flips.sum()), number).pvalue > 0.001
    assert stats.kstest(angles, stats.uniform(-15, 30).cdf).pvalue > 0.001
    for kind in range(3):
        assert stats.kstest(factors[:, kind], stats.uniform(0.8, 0.4).cdf).pvalue > 0.001
    counts = torch.bincount((orders * torch.tensor([9, 3, 1])).sum(1))
    assert (counts > 0).sum() == 6
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 0.001
    places = orders.argsort(1)  # of each of the three in the order
    parts = (flips[:, None], angles[:, None], factors, places, chosen.crops(drawn, 32, 32))
    together = torch.corrcoef(torch.cat(parts, 1).T)
    together[5:8, 5:8] = together[8:, 8:] = 0  # the three places depend on each other, and so do a crop's numbers
    assert (together - torch.diag(together.diag())).abs().max() < 0.03, "all the rest is independent"


@pytest.fixture(scope="module")
def torchvisions() -> Tensor:
    """600 images that torchvision made of the smooth one, in the same order of changes."""
    torch.manual_seed(2)
    # With a fill (0 unless said otherwise) a pixel that lies half in the black is darkened twice, to a quarter.
    chain = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(15, interpolation=BILINEAR, fill=None),
            v2.RandomResizedCrop(32, scale=(0.6, 1)),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
    return torch.stack([chain(image) for image in smooth(600)])


def apart(images: Tensor, others: Tensor) -> bool:
    """Whether two samples of images differ: in the mean of a pixel, or in the distribution of four measures."""
    measures = (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: (x[:, 0] - x[:, 2]).mean((1, 2)),
        lambda x: (x.sum(1) < 0.03).float().mean((1, 2)),
    )
    error = ((images.var(0) + others.var(0)) / len(images)).sqrt()
    # Black reaches the pixels in the corners so seldom that their mean is not normally distributed.
    means = ((images.mean(0) - others.mean(0)) / error)[:, 4:28, 4:28]
    return means.abs().max() > 4.5 or min(stats.ks_2samp(m(images), m(others)).pvalue for m in measures) < 1e-3


@pytest.mark.parametrize(
    ("options", "differ"),
    [({}, False), ({"rotation": 8.0}, True), ({"smallest_scale": 0.3}, True), ({"jitter": 0.3}, True)],
)
def test_images_are_distributed_as_torchvisions(torchvisions: Tensor, options: dict, differ: bool) -> None:
    chosen = build_augmentation(augmentation("flip_rotate_crop_jitter", **options))
    ours = chosen.apply(smooth(600), chosen.draw(600, generator()))
    assert apart(ours, torchvisions) == differ


# -- what every augmentation keeps to ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flip_crop", "flip_rotate_crop_jitter"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_changed_on_its_own(name: str, channels: int) -> None:
    chosen = build_augmentation(augmentation(name))
    pixels = noise(1, channels, 32, 32).expand(40, -1, -1, -1)
    drawn = chosen.draw(40, generator())
    changed = chosen.apply(pixels, drawn)
    assert torch.equal(drawn, chosen.draw(40, generator())) and not torch.equal(drawn, chosen.draw(40, generator(1)))
    assert changed.shape == pixels.shape and changed.dtype == torch.float32
    assert changed.min() >= 0 and changed.max() <= 1
    assert len({image.numpy().tobytes() for image in changed}) == len(drawn.unique(dim=0)) > 30
    parts = [chosen.apply(pixels[k : k + 7], drawn[k : k + 7]) for k in range(0, 40, 7)]
    torch.testing.assert_close(torch.cat(parts), changed, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flip_crop", {"padding": -1}, "'padding' .* must be an integer from 0, not -1"),
        ("flip_rotate_crop_jitter", {"rotation": 181}, "'rotation' .* must be a finite number from 0 to 180, not 181"),
        ("flip_rotate_crop_jitter", {"smallest_scale": 0}, "must be a finite number above 0 to 1, not 0"),
        ("flip_rotate_crop_jitter", {"jitter": 1.5}, "must be a finite number from 0 to 1, not 1.5"),
        ("flip_rotate_crop_jitter", {"hue": 0.1}, "its options are: rotation, smallest_scale, jitter"),
    ],
)
def test_impossible_options(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmentation(name, **options)


def test_images_with_two_channels() -> None:
    chosen = FlipRotateCropJitter()
    with pytest.raises(ValueError, match="images need 1 or 3 channels, these have 2"):
        chosen.apply(noise(4, 2), chosen.draw(4, generator()))
