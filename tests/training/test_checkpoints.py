"""Interrupted runs end as if nothing had happened; what cannot be used is told."""

import dataclasses
import hashlib
import io
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from short_trainings import Interrupted, interrupt_at, make_run, numbers, statistics_run

from deepnets_utils.runs.run import Run
from deepnets_utils.training import checkpoints
from deepnets_utils.training.train import train


def interrupted_run(run: Run, path: Path, epoch: int) -> None:
    """Train until the end of `epoch`, at which the checkpoint of the epoch before it is there."""
    with pytest.raises(Interrupted):
        train(run, checkpoint=path, checkpoint_seconds=0, on_epoch=interrupt_at(epoch))


def resume(run: Run, path: Path) -> tuple[str, list[int]]:
    """Return the numbers and the epochs that were trained."""
    epochs: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    return numbers(result), epochs


@pytest.mark.parametrize("shuffle", ["every_epoch", "once"])
@pytest.mark.parametrize("fields", [{}, {"evaluation_mode": "train"}, {"optimizer": "sgd"}], ids=str)
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Callable, shuffle: str, fields: dict, epoch: int
) -> None:
    run = make_run(shuffle=shuffle, **fields)
    interrupted_run(run, tmp_path / "run.pt", epoch)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), list(range(epoch, 5)))


def test_a_run_may_be_interrupted_every_epoch(tmp_path: Path, undisturbed: Callable) -> None:
    run = make_run("LeNet5_FullyConv", options={})
    for epoch in (2, 3, 4):
        interrupted_run(run, tmp_path / "run.pt", epoch)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [4])


def test_a_run_interrupted_in_its_last_test_trains_no_epoch_again(tmp_path: Path, undisturbed: Callable) -> None:
    run = make_run()
    train(run, checkpoint=tmp_path / "run.pt", checkpoint_seconds=0)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [])


def test_checkpoints_are_written_after_their_seconds_only(tmp_path: Path) -> None:
    train(make_run(), checkpoint=tmp_path / "run.pt", checkpoint_seconds=3600)
    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_where_its_checkpoint_has_no_room(tmp_path: Path, undisturbed: Callable) -> None:
    (tmp_path / "file").touch()  # no folder, so that nothing can be written below it
    with pytest.warns(UserWarning, match="goes on without a checkpoint"):
        result = train(make_run(), checkpoint=tmp_path / "file" / "run.pt", checkpoint_seconds=0)
    assert numbers(result) == undisturbed(make_run())


def test_seconds_of_earlier_attempts_count(tmp_path: Path) -> None:
    run, path = make_run(epochs=2), tmp_path / "run.pt"

    def slow(epoch: int, history: dict) -> None:
        time.sleep(0.3)
        if epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run, checkpoint=path, checkpoint_seconds=0, on_epoch=slow)
    assert train(run, checkpoint=path).provenance["wall_seconds"] > 0.3


@pytest.mark.parametrize("shuffle", ["every_epoch", "once"])
def test_kill_9_at_random_moments(
    tmp_path: Path, undisturbed: Callable, processes: multiprocessing.context.BaseContext, shuffle: str
) -> None:
    run, path = make_run(epochs=25, shuffle=shuffle), tmp_path / "run.pt"
    for _ in range(4):
        arguments = {"checkpoint": path, "checkpoint_seconds": 0}
        process = processes.Process(target=train, args=(run,), kwargs=arguments)
        process.start()
        end, before = time.monotonic() + 30, path.stat().st_mtime_ns if path.exists() else 0
        while process.is_alive() and (not path.exists() or path.stat().st_mtime_ns == before):
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.06))
        process.kill()
        process.join()
        assert path.exists(), "the first checkpoint was written, and then the process was killed"
    bits, epochs = resume(run, path)
    assert bits == undisturbed(run)
    assert len(epochs) < 22, "it went on from where it was"


def with_checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return with_checksum(file.getvalue())


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def damaged(kind: str, content: bytes, folder: Path) -> bytes:
    state = torch.load(io.BytesIO(content[32:]), weights_only=True)
    progress, network, optimizer = state["parts"]
    weight = next(iter(network))
    match kind:
        case "empty":
            return b""
        case "half":
            return content[: len(content) // 2]
        case "last_byte_missing":
            return content[:-1]
        case "flipped_in_the_weights":
            return flip(content, content.index(network[weight].numpy().tobytes()) + 5)
        case "flipped_at_random":
            return flip(content, random.randrange(len(content)))
        case "another_run":
            return saved(state | {"digest": "0" * 16})
        case "begun_on_cuda":
            return saved(state | {"place": f"cuda with torch {torch.__version__}"})
        case "no_optimizer":
            return saved(state | {"parts": [progress, network, None]})
        case _ if kind in state:
            return saved({key: value for key, value in state.items() if key != kind})
        case _ if kind in progress:
            return saved(
                state | {"parts": [{key: progress[key] for key in progress if key != kind}, network, optimizer]}
            )
        case "another_network":
            del network[weight]
            return saved(state)
        case "another_optimizer":
            optimizer["param_groups"][0]["params"].pop()
            return saved(state)
        case "payload":
            return saved(state | {"parts": [progress | {"history": Payload(folder / "executed")}, network, optimizer]})
        case "foreign":
            return with_checksum(b"not a checkpoint")
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["empty", "half", "last_byte_missing", "flipped_in_the_weights", "flipped_at_random", "another_run", "no_optimizer"]
    + ["begun_on_cuda", "place"]
    + ["torch_generator", "cuda_generator", "seconds", "parts"]
    + ["generator", "epoch", "order", "history", "gradients", "best", "diverged_at"]
    + ["another_network", "another_optimizer", "payload", "foreign"],
)
def test_a_checkpoint_that_cannot_be_used(tmp_path: Path, undisturbed: Callable, kind: str) -> None:
    run, path = make_run(), tmp_path / "run.pt"
    interrupted_run(run, path, 3)
    content = damaged(kind, path.read_bytes(), tmp_path)
    path.write_bytes(content)
    epochs = []
    with pytest.warns(UserWarning, match=r"(?s)checkpoint run.pt is not used: .*moved to .*run.pt.damaged-1"):
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    assert numbers(result) == undisturbed(run) and epochs == [1, 2, 3, 4], "as if there had been none"
    assert (tmp_path / "run.pt.damaged-1").read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_cannot_be_read_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = make_run(), tmp_path / "run.pt"
    interrupted_run(run, path, 3)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="stale file handle"):
        patched.setattr(checkpoints, "load_state", lambda *of: (_ for _ in ()).throw(OSError("stale file handle")))
        train(run, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_of_another_torch_is_not_continued(
    tmp_path: Path, undisturbed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path, epochs = make_run(), tmp_path / "run.pt", []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.11.0+cpu")
        interrupted_run(run, path, 3)
    line = f"begun on cpu with torch 2.11.0.cpu, this is cpu with torch {torch.__version__}".replace("+", ".")
    with pytest.warns(UserWarning, match=f"{line}, so that the run starts again"):
        result = train(run, checkpoint=path, on_epoch=lambda epoch, history: epochs.append(epoch))
    assert numbers(result) == undisturbed(run) and epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("run", [make_run(), statistics_run(shuffle="once")], ids=["LeNet5", "once"])
def test_a_resumed_run_finds_its_rate_again(tmp_path: Path, undisturbed: Callable, run: Run) -> None:
    run = dataclasses.replace(run, learning_rate="range_test")
    interrupted_run(run, tmp_path / "run.pt", 3)
    assert resume(run, tmp_path / "run.pt") == (undisturbed(run), [3, 4])
