import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepnets_utils.data import loading
from deepnets_utils.data.augment import augmentation
from deepnets_utils.data.randomness import generator
from deepnets_utils.data.tasks import Split, build_task, task
from deepnets_utils.data.tasks.image_classes import ImageClasses
from deepnets_utils.models import model
from deepnets_utils.runs.run import Result, Run
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.sweep import sweep
from deepnets_utils.training import train as training_module
from deepnets_utils.training.batches import Batches
from deepnets_utils.training.checkpoints import Progress, load_state, save_state
from deepnets_utils.training.loop import Training, evaluate, train_epoch, train_step
from deepnets_utils.training.optimizers import make_optimizer
from deepnets_utils.training.train import make_network, train

DIGITS = "digits_32"


def splits(data_seed: int = 0, **options: object) -> dict:
    spec = task("image_classes", **{"train_size": 100, "validation_size": 50, "test_size": 60} | options)
    return build_task(spec).splits(loading.load(DIGITS), data_seed)


def make_run(**fields: object) -> Run:
    spec = {"train_size": 96, "validation_size": 40, "test_size": 50} | fields.pop("options", {})
    defaults = {"model": model("notation", layers="4c-mp-8c-mp-16fc-10fc"), "learning_rate": 3e-3, "epochs": 3}
    return Run(dataset=DIGITS, task=task("image_classes", **spec), batch_size=32, **defaults | fields)


def test_statistics_are_those_of_the_training_images_alone() -> None:
    parts = splits()
    train_pixels = parts["train"].pixels(parts["train"].inputs)
    normal = parts["train"].normalised(train_pixels)
    assert normal.mean((0, 2, 3)).tolist() == pytest.approx([0] * normal.shape[1], abs=1e-5)
    assert normal.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * normal.shape[1], abs=1e-5)
    for name in ("validation", "test"):
        assert torch.equal(parts[name].mean, parts["train"].mean)
        assert torch.equal(parts[name].deviation, parts["train"].deviation)


def test_splits_do_not_overlap_and_repeat() -> None:
    parts = splits(validation_size=400, train_size=0)
    images = {
        name: {bytes(image.numpy().tobytes()) for image in parts[name].inputs} for name in ("train", "validation")
    }
    assert len(images["train"] & images["validation"]) <= 2, "two scans may be equal"
    assert torch.equal(parts["train"].inputs, splits(validation_size=400, train_size=0)["train"].inputs)
    assert not torch.equal(parts["train"].inputs, splits(1, validation_size=400, train_size=0)["train"].inputs)


def test_an_extended_training_set_has_a_fixed_changed_copy_of_each_image() -> None:
    plain, extended, other = splits(), splits(extended=True), splits(1, extended=True)
    copies = extended["train"].inputs[100:]
    assert torch.equal(extended["train"].inputs[:100], plain["train"].inputs)
    assert torch.equal(extended["train"].targets, plain["train"].targets.repeat(2))
    changed = (copies != plain["train"].inputs).flatten(1).any(1)
    assert 90 < changed.sum() <= 100, "one in 162 is neither flipped nor shifted"
    assert all(torch.equal(extended[name].inputs, plain[name].inputs) for name in ("validation", "test"))
    assert torch.equal(extended["train"].mean, plain["train"].mean)
    assert torch.equal(copies, splits(extended=True)["train"].inputs[100:])
    assert not torch.equal(other["train"].inputs[100:], copies)


def test_two_classes_become_0_and_1() -> None:
    images = loading.load(DIGITS)
    parts = splits(classes="3,5", train_size=0, validation_size=20, test_size=0)
    assert len(parts["train"]) + 20 == ((images.train_labels == 3) | (images.train_labels == 5)).sum()
    assert len(parts["test"]) == ((images.test_labels == 3) | (images.test_labels == 5)).sum()
    of_test = images.test_images[images.test_labels == 5]
    assert torch.equal(parts["test"].inputs[parts["test"].targets == 1], of_test)


def test_raw_inputs_are_0_to_255() -> None:
    part = splits(inputs="raw")["train"]
    pixels = part.normalised(part.pixels(part.inputs))
    assert pixels.min() == 0 and pixels.max().item() == pytest.approx(255)


def test_grey_images_padded_and_repeated() -> None:
    spec = task("image_classes", pad=2, channels=3, train_size=30, validation_size=0, test_size=10)
    parts = build_task(spec).splits(loading.load("digits_28"), 0)
    assert set(parts) == {"train", "test"} and parts["train"].inputs.shape == (30, 3, 32, 32)
    assert parts["train"].inputs[:, :, :2].max() == 0
    assert torch.equal(parts["train"].inputs[:, 0], parts["train"].inputs[:, 2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": "grey"}, "must be one of 'standardised', 'raw', not 'grey'"),
        ({"distillation": "mse"}, "must be one of '', 'softmax_mse', 'logit_mse', 'kl', not 'mse'"),
        ({"classes": "3"}, "classes must be different numbers"),
        ({"classes": "3,3"}, "classes must be different numbers"),
        ({"classes": "cat,dog"}, "classes must be different numbers"),
        ({"channels": 1}, "option 'channels' of task 'image_classes' must be one of 0, 3, not 1"),
        ({"temperature": 0.0}, "'temperature' .* must be a finite number above 0, not 0.0"),
        ({"pad": -1}, "'pad' .* must be an integer from 0, not -1"),
    ],
)
def test_impossible_options(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task("image_classes", **options)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit into"):
        splits(train_size=10**6)
    with pytest.raises(ValueError, match="test_size 1000000 does not fit"):
        splits(test_size=10**6)


@pytest.mark.usefixtures("float64")
def test_the_losses_are_those_of_their_papers() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 10, generator=draw), torch.randn(6, 10, generator=draw)
    labels = torch.arange(6)
    taught = torch.cat((labels[:, None].float(), teacher), 1)

    def loss(outputs: Tensor, targets: Tensor, **options: object) -> float:
        return build_task(task("image_classes", **options)).loss(outputs, targets).item()

    p, q = student.softmax(1), teacher.softmax(1)
    assert loss(student, taught, distillation="softmax_mse") == pytest.approx((p - q).square().mean().item())
    assert loss(student, taught, distillation="logit_mse") == pytest.approx((student - teacher).square().mean().item())
    p, q = (student / 3).softmax(1), (teacher / 3).softmax(1)
    divergence = 9 * (q * (q / p).log()).sum(1).mean().item()
    assert loss(student, taught, distillation="kl", temperature=3.0) == pytest.approx(divergence)
    cross_entropy = F.cross_entropy(student, labels).item()
    assert loss(student, labels) == pytest.approx(cross_entropy)
    assert loss((student, student, None), labels, auxiliary=0.3) == pytest.approx(1.3 * cross_entropy)
    binary = labels % 2
    one = student[:, :1]
    expected = -torch.where(binary == 1, one[:, 0].sigmoid(), 1 - one[:, 0].sigmoid()).log().mean().item()
    assert loss(one, binary) == pytest.approx(expected)
    metrics = build_task(task("image_classes", distillation="kl")).metrics(student, taught)
    assert metrics["accuracy"] == pytest.approx(100 * (student.argmax(1) == labels).float().mean().item())
    assert metrics["error"] == pytest.approx(100 - metrics["accuracy"])


def test_best_weights_are_tested_beside_the_last() -> None:
    run = make_run(keep_best=True, watch_test=True, epochs=6, learning_rate=3e-2)
    result = train(run)
    errors = result.history["validation_error"]
    best = errors.index(min(errors))
    assert result.metrics["selected_epoch"] == best + 1
    assert result.metrics["selected_test_error"] == result.history["test_error"][best]
    assert result.metrics["test_error"] == result.history["test_error"][-1]
    plain = train(make_run(epochs=6, learning_rate=3e-2))
    assert plain.history["train_loss"] == result.history["train_loss"] and "selected_epoch" not in plain.metrics


def test_many_gradient_norms_are_averaged_over_windows() -> None:
    by_step = train(make_run(gradient_steps=9)).metrics["gradient_norms"]
    windows = train(make_run(gradient_steps=9, epochs=8)).metrics["gradient_norms"]
    assert windows == by_step, "as many as there are steps"
    many = train(make_run(gradient_steps=24, epochs=8)).metrics["gradient_norms"]
    for layer, means in zip(by_step, many, strict=True):
        assert len(means) == 12 and means[:4] == pytest.approx([sum(layer[k : k + 2]) / 2 for k in (0, 2, 4, 6)])


def test_mixed_precision_gives_other_numbers() -> None:
    whole, mixed = (train(make_run(precision=name)).history["train_loss"] for name in ("float32", "bfloat16"))
    assert whole != mixed and mixed == pytest.approx(whole, rel=0.02)


def test_mixed_precision_makes_no_ties_where_it_measures_and_teaches() -> None:
    run = make_run(precision="bfloat16")
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([4.000, 4.015]))
    split = Split(torch.zeros(5, 1, 32, 32), torch.ones(5, dtype=torch.int64))
    seen = train_step(run, ImageClasses(), network, make_optimizer(run, network, [0.0]), split.inputs, split.targets)[1]
    assert (seen == 4).all(), "in the training they are a tie"
    training = Training([run], ImageClasses(), network, Batches([run]), [])
    [metrics] = evaluate(training, split, "test")
    assert metrics["test_error"] == 0 and metrics["test_loss"] == pytest.approx(math.log(1 + math.exp(-0.015)))
    student = make_run(teacher=run, options={"distillation": "kl"}, precision="bfloat16")
    taught = Batches([student], network).taught(split)
    assert taught.targets.tolist() == [pytest.approx([1, 4.000, 4.015], abs=1e-6)] * 5


def test_a_student_needs_a_teacher_and_a_distillation() -> None:
    with pytest.raises(ValueError, match="distillation 'kl' and no teacher"):
        train(make_run(options={"distillation": "kl"}))
    with pytest.raises(ValueError, match="distillation '' and a teacher"):
        train(make_run(teacher=make_run()))


@pytest.mark.parametrize(
    "teacher, match",
    [
        ({"options": {"inputs": "raw"}}, "the same inputs and classes"),
        ({"options": {"validation_size": 0}}, "the same inputs and classes"),
        ({"options": {"classes": "0,8"}}, "the same inputs and classes"),
        ({"evaluation_mode": "train"}, "a teacher needs evaluation_mode eval"),
    ],
)
def test_a_student_sees_what_its_teacher_has_learned_from(teacher: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train(make_run(teacher=make_run(**teacher), options={"distillation": "kl"}))


def test_a_student_may_have_other_training_images_of_its_own(tmp_path: Path) -> None:
    teacher = make_run(epochs=1)
    train(teacher, weights=tmp_path / "teacher.pt")
    student = make_run(epochs=1, teacher=teacher, options={"distillation": "softmax_mse", "extended": True})
    assert train(student, teacher=tmp_path / "teacher.pt").status == "finished"


def test_keep_best_needs_validation_images() -> None:
    with pytest.raises(ValueError, match="keep_best needs a task with a validation split"):
        train(make_run(keep_best=True, options={"validation_size": 0}))


@pytest.mark.usefixtures("float64")
def test_gradient_norms_of_the_first_steps() -> None:
    result = train(make_run(gradient_steps=5))
    norms = torch.tensor(result.metrics["gradient_norms"])
    assert norms.shape == (4, 5) and (norms > 0).all(), "four layers with weights, five steps"
    run = make_run()
    learned = build_task(run.task)
    split, network = (
        learned.splits(loading.load(DIGITS), run.data_seed)["train"],
        make_network(run, torch.device("cpu")),
    )
    order = torch.randperm(len(split), generator=generator("order", run.seed))
    x, y = next(Batches([run]).training(split, [order], 0))
    learned.loss(network(x), y).backward()
    own = [weight.grad.norm().item() for weight in network.parameters() if weight.dim() > 1]
    assert norms[:, 0].tolist() == pytest.approx(own, rel=1e-9)
    assert result.history == train(make_run()).history


def test_gradient_norms_of_weights_that_get_none_are_0() -> None:
    class Spare(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(3072, 20).requires_grad_(False), nn.Linear(20, 10))
            self.spare = nn.Linear(2, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self[2](self[1](self[0](images)))

    run, network, progress, split = make_run(gradient_steps=2), Spare(), Progress.start(0), splits()["train"]
    progress.order = torch.arange(len(split))
    training = Training([run], ImageClasses(), network, Batches([run]), [progress])
    train_epoch(training, make_optimizer(run, network, [1e-3]), split)
    frozen, used, spare = zip(*progress.gradients, strict=True)
    assert frozen == spare == (0, 0) and min(used) > 0


def test_a_student_learns_from_its_teacher(tmp_path: Path) -> None:
    store = Store(tmp_path, published=None)
    teacher = make_run(model=model("notation", layers="8c-mp-16c-mp-32fc-10fc"), epochs=8, seed=1)
    options = {"distillation": "softmax_mse"}
    student = make_run(teacher=teacher, options=options, epochs=8, augmentation=augmentation("flip_crop", padding=1))
    taught, taught_again = sweep([student, student], store=store)
    lead = store.get(teacher)
    assert taught.provenance["teacher_weights_sha256"] == lead.provenance["weights_sha256"]
    assert store.weights(teacher).exists() and not store.weights(student).exists()
    assert taught.history["train_loss"][-1] < taught.history["train_loss"][0] / 2
    assert taught.history["validation_loss"][-1] < taught.history["validation_loss"][0]
    again = train(student, teacher=store.weights(teacher))
    assert again.history == taught.history and again.metrics == taught.metrics
    with pytest.raises(ValueError, match="a student needs the weights of its teacher"):
        train(student)
    store.weights(teacher).write_bytes(store.weights(teacher).read_bytes()[:-1])
    with pytest.raises(ValueError, match="checksum"):
        train(student, teacher=store.weights(teacher))


def test_students_of_a_teacher_that_diverged_count_as_diverged(store: Store) -> None:
    teacher = make_run(learning_rate=1e30, seed=1)
    student = make_run(teacher=teacher, options={"distillation": "softmax_mse"})
    lead, taught = sweep([teacher, student], store=store)
    assert lead.status == taught.status == "diverged" and taught.diverged_at_step == 0


def test_so_do_those_of_a_teacher_whose_range_test_found_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "suggestion", lambda *_: math.nan)
    teacher = make_run(learning_rate="range_test", seed=1)  # its initial weights are whole
    student = make_run(teacher=teacher, options={"distillation": "softmax_mse"})
    lead, taught = sweep([teacher, student], store=store)
    assert lead.status == taught.status == "diverged" and taught.diverged_at_step == 0


def test_a_checkpoint_of_another_teacher_is_not_used(tmp_path: Path) -> None:
    teacher = make_run(seed=1)
    student = make_run(teacher=teacher, options={"distillation": "kl"})
    train(teacher, weights=tmp_path / "first.pt")
    state, _ = load_state(tmp_path / "first.pt", teacher.digest)
    other = {name: 1.1 * value for name, value in state["network"].items()}
    save_state(tmp_path / "second.pt", state | {"network": other})
    file = tmp_path / "checkpoint.pt"

    def stop(epoch: int, history: dict) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    def resumed(teacher: Path) -> Result:
        with pytest.raises(KeyboardInterrupt):
            train(student, teacher=tmp_path / "first.pt", checkpoint=file, checkpoint_seconds=0, on_epoch=stop)
        return train(student, teacher=teacher, checkpoint=file)

    whole = resumed(tmp_path / "first.pt")
    assert whole.metrics == train(student, teacher=tmp_path / "first.pt").metrics
    file.unlink()
    with pytest.warns(UserWarning, match="it belongs to another training"):
        swapped = resumed(tmp_path / "second.pt")
    assert swapped.metrics == train(student, teacher=tmp_path / "second.pt").metrics


def test_a_network_is_kept_as_its_last_epoch_left_it(tmp_path: Path) -> None:
    saved = []
    for keep_best in (False, True):  # two classes that are soon told apart: no later epoch is better
        run = make_run(
            keep_best=keep_best, epochs=10, learning_rate=0.01, options={"classes": "0,1", "validation_size": 5}
        )
        result = train(run, weights=tmp_path / "weights.pt")
        saved.append(load_state(tmp_path / "weights.pt", run.digest)[0]["network"])
    assert result.metrics["selected_epoch"] < 10, "or the test shows nothing"
    assert all(torch.equal(saved[0][name], value) for name, value in saved[1].items())


def test_of_equal_errors_the_first_is_the_best() -> None:
    progress, network = Progress.start(0), nn.Linear(1, 1)
    for epoch, error in enumerate((3.0, 2.0, 2.0), 1):
        progress.epoch = epoch
        progress.record({"validation_error": error})
        progress.keep_best(network.state_dict())
    assert progress.best["epoch"] == 2


def test_the_teacher_sees_what_the_student_sees() -> None:
    spec = {"options": {"distillation": "kl"}, "augmentation": augmentation("flip_crop")}
    run = make_run(teacher=make_run(), **spec)
    seen: list[Tensor] = []

    class Sums(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return torch.stack([images.sum((1, 2, 3))] * 10, 1)

    split = splits()["train"]
    order = torch.arange(len(split)).flip(0)
    for x, y in Batches([run], Sums()).training(split, [order], 0):
        assert torch.equal(seen[-1], x) and y.shape[1] == 11
        assert torch.equal(y[:, 1], x.sum((1, 2, 3)))
    labels = torch.cat([y[:, 0] for _, y in Batches([run], Sums()).training(split, [order], 0)])
    assert labels.tolist() == split.targets.flip(0).tolist()
    plain = [x for x, _ in Batches([make_run()]).training(split, [order], 0)]
    assert not torch.equal(torch.cat(plain), torch.cat(seen[: math.ceil(len(split) / 32)]))
    first, second = ([x for x, _ in Batches([run], Sums()).training(split, [order], epoch)] for epoch in (0, 1))
    assert not torch.equal(torch.cat(first), torch.cat(second)), "each epoch draws anew"
