import math
import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepnets_utils.data import inventory, loading
from deepnets_utils.data.loading import Images
from deepnets_utils.data.tasks import build_task, task
from deepnets_utils.models.siamese import PairLogits

STATISTICS = ("mean", "median", "std")


@pytest.fixture(scope="module")
def noise() -> Images:
    """Images of random pixels: no two are alike, so that an input tells which image it was made from."""
    draw = torch.Generator().manual_seed(0)

    def images(number: int) -> tuple[Tensor, Tensor]:
        pixels = torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8, generator=draw)
        return pixels, torch.randint(0, 10, (number,), generator=draw)

    return Images("noise", *images(120), *images(80), "")


def sources(inputs: Tensor, images: Tensor) -> list[int]:
    """Return which of `images` each halved image of `inputs` [N, 2, 14, 14] is, in the order of the inputs."""
    halved = F.avg_pool2d(images.float(), 2).flatten(1)
    equal = (inputs.reshape(-1, 1, 196) - halved[None]).abs().amax(2) < 1e-3
    assert (equal.sum(1) == 1).all()
    return equal.int().argmax(1).tolist()


def raw_pairs(images: Images, train_size: int, test_size: int, data_seed: int = 0) -> tuple:
    """Return the two splits with inputs from 0 to 255."""
    options = {"train_size": train_size, "test_size": test_size, "test_inputs": "raw"}
    splits = build_task(task("digit_pairs", **options)).splits(images, data_seed)
    halved = F.avg_pool2d(images.train_images.float(), 2)
    chosen = torch.randperm(len(halved), generator=torch.Generator().manual_seed(data_seed))[: 2 * train_size]
    mean, deviation = halved[chosen].mean(), halved[chosen].std()
    return (
        splits["train"].inputs * deviation + mean,
        splits["train"].targets,
        splits["test"].inputs,
        splits["test"].targets,
    )


def test_pairs_are_distinct_images_with_the_right_targets(noise: Images) -> None:
    train_inputs, train_targets, test_inputs, test_targets = raw_pairs(noise, 60, 40, data_seed=3)
    for inputs, targets, images, labels in (
        (train_inputs, train_targets, noise.train_images, noise.train_labels),
        (test_inputs, test_targets, noise.test_images, noise.test_labels),
    ):
        used = sources(inputs, images)
        assert sorted(used) == list(range(len(images))), "every image is used, and only once"
        first, second = labels[used].view(-1, 2).unbind(1)
        assert targets.dtype == torch.int64
        assert torch.equal(targets, torch.stack(((first <= second).long(), first, second), 1))


def authors_pairs(size: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The draw as the course's prologue, which the authors' code uses, writes it (with the global generator)."""
    images = F.avg_pool2d(images.float(), kernel_size=2)
    chosen = torch.randperm(images.size(0))[: 2 * size].view(size, 2)
    pairs = torch.cat((images[chosen[:, 0]], images[chosen[:, 1]]), 1)
    classes = labels[chosen]
    return pairs, (classes[:, 0] <= classes[:, 1]).long(), classes


@pytest.mark.parametrize("data_seed", [0, 5])
def test_the_draw_is_that_of_the_authors_code(data_seed: int) -> None:
    images = loading.load("mnist" if inventory.present("mnist") else "digits_28")
    size = {"train": 600, "test": 200}
    with torch.random.fork_rng():
        torch.manual_seed(data_seed)
        train = authors_pairs(size["train"], images.train_images, images.train_labels)
        test = authors_pairs(size["test"], images.test_images, images.test_labels)
    mean, deviation = train[0].mean(), train[0].std()
    options = {"train_size": size["train"], "test_size": size["test"]}
    for test_inputs in ("standardised", "raw"):
        splits = build_task(task("digit_pairs", test_inputs=test_inputs, **options)).splits(images, data_seed)
        expected = test[0] if test_inputs == "raw" else (test[0] - mean) / deviation
        torch.testing.assert_close(splits["test"].inputs, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(splits["train"].inputs, (train[0] - mean) / deviation, rtol=0, atol=1e-5)
        for name, (_, smaller, classes) in (("train", train), ("test", test)):
            assert torch.equal(splits[name].targets, torch.cat((smaller[:, None], classes), 1))


def test_drawing_does_not_touch_the_global_generator(noise: Images) -> None:
    before = torch.get_rng_state()
    for spec in (task("digit_pairs", train_size=5, test_size=5), task("pixel_statistic", validation_size=5)):
        build_task(spec).splits(noise, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_seeds_draw_other_pairs(noise: Images) -> None:
    one, again, other = (raw_pairs(noise, 10, 10, seed)[2] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_inputs_are_standardised_with_the_training_pairs_only(noise: Images) -> None:
    darker = Images("dark", noise.train_images, noise.train_labels, noise.test_images // 4, noise.test_labels, "")
    splits = build_task(task("digit_pairs", train_size=50, test_size=40)).splits(darker, 0)
    inputs = splits["train"].inputs
    assert inputs.shape == (50, 2, 14, 14) and inputs.dtype == torch.float32
    assert abs(inputs.mean().item()) < 1e-5 and inputs.std().item() == pytest.approx(1, abs=1e-5)
    assert splits["test"].inputs.mean() < -2, "the test pairs keep their own mean"
    raw = build_task(task("digit_pairs", train_size=50, test_size=40, test_inputs="raw")).splits(darker, 0)
    assert torch.equal(raw["train"].inputs, inputs)
    assert 0 <= raw["test"].inputs.min() and 10 < raw["test"].inputs.max() <= 63


@pytest.mark.parametrize("sizes", [{"train_size": 61, "test_size": 5}, {"train_size": 5, "test_size": 41}])
def test_more_pairs_than_images(noise: Images, sizes: dict) -> None:
    with pytest.raises(ValueError, match=r"(61 pairs need 122 images, .* 120)|(41 pairs need 82 images, .* 80)"):
        build_task(task("digit_pairs", **sizes)).splits(noise, 0)


def test_the_loss_of_pairs() -> None:
    comparison = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    digits = torch.zeros(2, 2, 10)
    digits[0, 0, 3] = 1.0
    outputs, targets = PairLogits(comparison, digits), torch.tensor([[0, 3, 1], [1, 2, 5]])
    main = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    first = (math.log(9 + math.e) - 1 + math.log(10)) / 2
    second = math.log(10)
    for auxiliary in (0.0, 0.5, 1.0):
        loss = build_task(task("digit_pairs", auxiliary=auxiliary)).loss(outputs, targets)
        assert loss.item() == pytest.approx(main + auxiliary * (first + second), rel=1e-6)


def random_pairs(number: int) -> tuple[PairLogits, Tensor]:
    draw = torch.Generator().manual_seed(1)
    classes = torch.randint(0, 10, (number, 2), generator=draw)
    targets = torch.cat(((classes[:, :1] <= classes[:, 1:]).long(), classes), 1)
    outputs = torch.randn(number, 2, generator=draw), torch.randn(number, 2, 10, generator=draw)
    return PairLogits(*outputs), targets


def test_metrics_of_pairs() -> None:
    outputs, targets = random_pairs(500)
    metrics = build_task(task("digit_pairs")).metrics(outputs, targets)
    wrong = [int(c[1] > c[0]) != t for c, t in zip(outputs.comparison.tolist(), targets[:, 0].tolist(), strict=True)]
    read = outputs.digits.numpy().argmax(2) != targets[:, 1:].numpy()
    assert metrics["error"] == pytest.approx(100 * sum(wrong) / 500)
    assert metrics["digit_error"] == pytest.approx(100 * read.mean())
    assert all(type(value) in (float, list) for value in metrics.values())


def test_errors_by_distance_add_up() -> None:
    outputs, targets = random_pairs(500)
    metrics = build_task(task("digit_pairs")).metrics(outputs, targets)
    distances = [abs(first - second) for _, first, second in targets.tolist()]
    assert metrics["pairs_by_distance"] == [distances.count(distance) for distance in range(10)]
    errors = [e * n for e, n in zip(metrics["error_by_distance"], metrics["pairs_by_distance"], strict=True)]
    assert sum(errors) / 500 == pytest.approx(metrics["error"])


def test_a_distance_without_pairs_has_no_error_rate() -> None:
    targets = torch.tensor([[1, 0, 0], [0, 9, 8]])
    outputs = PairLogits(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 2, 10))
    metrics = build_task(task("digit_pairs")).metrics(outputs, targets)
    assert metrics["error_by_distance"][:2] == [0.0, 100.0]
    assert all(math.isnan(value) for value in metrics["error_by_distance"][2:])
    assert metrics["pairs_by_distance"] == [1, 1] + [0] * 8


@pytest.mark.parametrize("statistic", STATISTICS)
def test_pixel_statistics(noise: Images, statistic: str) -> None:
    function = {"mean": statistics.fmean, "median": statistics.median_low, "std": statistics.stdev}[statistic]
    splits = build_task(task("pixel_statistic", statistic=statistic, validation_size=20)).splits(noise, 0)
    for name, split in splits.items():
        assert split.inputs.shape[1:] == (1, 28, 28) and split.inputs.dtype == split.targets.dtype == torch.float32
        assert 0 <= split.inputs.min() and split.inputs.max() == 1
        expected = [function(pixels) for pixels in split.inputs.flatten(1).double().tolist()]
        np.testing.assert_allclose(split.targets.numpy(), expected, atol=1e-6, err_msg=name)


def test_the_median_is_the_lower_one_and_std_is_unbiased() -> None:
    pixels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    pixels.view(2, -1)[:, :392] = 255  # half of them
    images = Images("halves", pixels, torch.zeros(2).long(), pixels, torch.zeros(2).long(), "")
    targets = {
        name: build_task(task("pixel_statistic", statistic=name, validation_size=0)).splits(images, 0)["test"].targets
        for name in STATISTICS
    }
    assert targets["median"].tolist() == [0, 0], "the average of the two middle values would be 0.5"
    assert targets["std"].tolist() == pytest.approx([0.5 * math.sqrt(784 / 783)] * 2, rel=1e-6)
    assert targets["mean"].tolist() == [0.5, 0.5]


def indices(inputs: Tensor, images: Tensor) -> list[int]:
    rows = {bytes(image.numpy()): number for number, image in enumerate(images)}
    return [rows[bytes(image.numpy())] for image in (inputs * 255).round().to(torch.uint8)]


@pytest.mark.parametrize(("train_size", "validation_size"), [(0, 20), (100, 20), (30, 20), (0, 0), (120, 0), (1, 119)])
def test_splits_are_disjoint_and_complete(noise: Images, train_size: int, validation_size: int) -> None:
    spec = task("pixel_statistic", train_size=train_size, validation_size=validation_size)
    splits = build_task(spec).splits(noise, 4)
    train = indices(splits["train"].inputs, noise.train_images)
    validation = indices(splits["validation"].inputs, noise.train_images) if validation_size else []
    assert "validation" in splits or not validation_size
    assert len(train) == (train_size or 120 - validation_size) and len(validation) == validation_size
    assert len({*train, *validation}) == len(train) + len(validation)
    assert indices(splits["test"].inputs, noise.test_images) == list(range(80))


def test_a_smaller_training_set_is_a_part_of_the_larger(noise: Images) -> None:
    def train(size: int) -> list[int]:
        splits = build_task(task("pixel_statistic", train_size=size, validation_size=20)).splits(noise, 0)
        return indices(splits["train"].inputs, noise.train_images)

    assert train(30) == train(0)[:30]


@pytest.mark.parametrize("sizes", [(101, 20), (0, 120), (0, 121), (121, 0)])
def test_sizes_that_do_not_fit(noise: Images, sizes: tuple[int, int]) -> None:
    spec = task("pixel_statistic", train_size=sizes[0], validation_size=sizes[1])
    with pytest.raises(ValueError, match=f"train_size {sizes[0]} and validation_size {sizes[1]} do not fit into 120"):
        build_task(spec).splits(noise, 0)


def test_the_default_sizes_do_not_fit_the_embedded_digits() -> None:
    with pytest.raises(ValueError, match="validation_size 5000 do not fit into 1397 training images"):
        build_task(task("pixel_statistic")).splits(loading.load("digits_28"), 0)


def test_loss_and_metric_of_a_regression() -> None:
    regression = build_task(task("pixel_statistic"))
    targets = torch.tensor([0.0, 0.5, 1.0])
    for outputs in (torch.tensor([0.0, 1.0, 1.0]), torch.tensor([[0.0], [1.0], [1.0]])):
        assert regression.loss(outputs, targets).item() == pytest.approx(0.25 / 3)
        assert regression.metrics(outputs, targets) == {"mse": pytest.approx(0.25 / 3)}


def test_description_of_targets() -> None:
    targets = torch.tensor([0.0, 0.0, 0.019, 0.021, 0.5, 1.0])
    description = build_task(task("pixel_statistic")).describe(targets)
    plain = targets.double().tolist()
    mean = statistics.fmean(plain)
    moments = [statistics.fmean((x - mean) ** power for x in plain) for power in (2, 3)]
    histogram = [0] * 50
    histogram[0], histogram[1], histogram[25], histogram[49] = 3, 1, 1, 1
    assert description == {
        "size": 6,
        "target_mean": pytest.approx(mean),
        "target_std": pytest.approx(statistics.stdev(plain)),
        "target_median": pytest.approx(statistics.median_low(plain)),
        "target_skewness": pytest.approx(moments[1] / moments[0] ** 1.5),
        "target_zero_fraction": pytest.approx(1 / 3),
        "target_histogram": histogram,
    }
