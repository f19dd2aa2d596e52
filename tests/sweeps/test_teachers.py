"""Teachers are trained before their students, once."""

import pytest
from fake_trainer import TRAINER, calls, make_run

from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.sweep import sweep


@pytest.mark.parametrize("workers", [1, 2])
def test_a_teacher_is_trained_before_its_students_and_once(
    store: Store, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    grand = make_run(7)
    teacher = make_run(8, teacher=grand)
    students = [make_run(seed, teacher=teacher) for seed in range(3)]
    options = {"store": store, "trainer": TRAINER, "workers": workers}
    results = sweep([*students, make_run(9)], **options)
    assert [result.run for result in results] == [*students, make_run(9)]
    lines = calls(store.folder)
    order = [line["digest"] for line in lines]
    wanted = [run.digest for run in (grand, teacher, *students, make_run(9))]
    assert order == wanted or workers == 2, "a student keeps its place, its teachers come before it"
    assert sorted(order) == sorted(wanted) and order.index(grand.digest) < order.index(teacher.digest)
    assert order.index(teacher.digest) < min(order.index(student.digest) for student in students)
    read = {line["digest"]: line.get("teacher") for line in lines}
    assert [read[student.digest] for student in students] == [teacher.digest] * 3

    sweep([*students, teacher], **options)
    assert len(calls(store.folder)) == 6, "all is stored: teachers are not looked at"
    store.weights(teacher).unlink()
    sweep(students, **options)
    assert len(calls(store.folder)) == 6, "no student is missing, so nobody needs the weights"
    more = sweep([make_run(10, teacher=teacher), teacher], **options)
    assert [result.run for result in more] == [make_run(10, teacher=teacher), teacher]
    said = capsys.readouterr()
    assert "1 of 2 runs to train on cpu" in said.err + said.out
    assert "and 1 teachers whose weights are not here" in said.err + said.out
    again = [line["digest"] for line in calls(store.folder)][6:]
    assert again == [teacher.digest, make_run(10, teacher=teacher).digest], "its weights were lost, its teacher's not"


def test_a_teacher_whose_weights_are_damaged_is_trained_again_first(store: Store) -> None:
    teacher, options = make_run(8), {"store": store, "trainer": TRAINER}
    sweep([make_run(1, teacher=teacher)], **options)
    content = store.weights(teacher).read_bytes()
    for damaged in (b"", content[:-1], content[:40] + b"?" + content[41:]):
        store.weights(teacher).write_bytes(damaged)
        before = len(calls(store.folder))
        with pytest.warns(UserWarning, match="checksum"):
            sweep([make_run(100 + before, teacher=teacher)], **options)
        assert [line["digest"] for line in calls(store.folder)][before] == teacher.digest


def test_students_of_a_teacher_that_fails_are_named(store: Store) -> None:
    teacher = make_run(1, "raises")
    with pytest.raises(TrainingFailed, match="made to fail"):
        sweep([make_run(2, teacher=teacher), make_run(3)], store=store, trainer=TRAINER)
    assert store.get(make_run(3)) is not None
