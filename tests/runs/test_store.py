import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_trainer import make_run, result_of

from deepnets_utils.runs.files import move_aside, write_whole
from deepnets_utils.runs.run import Result, Run, canonical
from deepnets_utils.runs.store import NO_RECORD, Store, _read, read_records, record_line, sealed, write_records
from deepnets_utils.sweeps.sweep import sweep


def record_path(store: Store, run: Run) -> Path:
    return store.folder / "records" / f"{run.digest}.json"


def altered(result: Result, **fields: object) -> bytes:
    """The record with other content and a checksum that matches it."""
    return sealed(canonical(result.to_json() | fields).encode())


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_put_then_get(store: Store) -> None:
    run = make_run(0)
    assert store.get(run) is None
    store.put(result_of(run))
    assert store.get(run) == result_of(run)
    assert store.get(make_run(1)) is None
    assert [result.run for result in store.results()] == [run]


def test_put_removes_the_checkpoint(store: Store) -> None:
    run = make_run(0)
    store.checkpoint(run).parent.mkdir(parents=True)
    store.checkpoint(run).write_text("state")
    store.put(result_of(run))
    assert not store.checkpoint(run).exists()


def damages() -> dict[str, bytes]:
    result, other = result_of(make_run(0)), result_of(make_run(1))
    whole = record_line(result)
    half = len(whole) // 2
    return {
        "empty": b"",
        "one_byte": whole[:1],
        "half": whole[:half],
        "almost_whole": whole[:-2],
        "zeros": bytes(len(whole)),
        "flipped_digit": flipped(whole, whole.index(b"test_error") + 14, 0),
        "flipped_high_bit": flipped(whole, half, 7),
        "flipped_bracket": flipped(whole, 0, 1),
        "not_json": b"null\n",
        "a_list": b"[1]\n",
        "other_schema": altered(result, schema=2),
        "another_run": record_line(other),
        "wrong_digest": altered(result, digest=other.run.digest),
        "no_run": altered(result, run={}),
        "unknown_field": altered(result, run=result.run.to_json() | {"epoch": 3}),
        "provenance_is_text": altered(result, provenance="x"),
        "other_data": altered(result, provenance={"data_fingerprint": "0" * 64}),
    }


@pytest.mark.parametrize("damage", damages())
def test_what_is_no_record_is_moved_aside_and_done_again(store: Store, damage: str) -> None:
    run, content = make_run(0), damages()[damage]
    path = record_path(store, run)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{run.digest}.json is not used: .*moved to .*damaged-1"):
        assert store.get(run) is None
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == content
    store.put(result_of(run))
    assert store.get(run) == result_of(run)


def test_every_single_flipped_bit_is_noticed() -> None:
    result = result_of(make_run(0))
    whole = record_line(result).rstrip()
    assert _read(whole) == result
    for position in range(0, len(whole), 3):
        with pytest.raises(NO_RECORD):
            _read(flipped(whole, position, position % 8))


def test_damaged_files_are_all_kept(store: Store) -> None:
    run = make_run(0)
    record_path(store, run).parent.mkdir(parents=True)
    for number in (1, 2, 3):
        record_path(store, run).write_text(f"damage {number}")
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            store.get(run)
    kept = sorted(path.read_text() for path in record_path(store, run).parent.iterdir())
    assert kept == ["damage 1", "damage 2", "damage 3"]


def test_results_passes_damaged_files_over_and_leaves_them(store: Store) -> None:
    store.put(result_of(make_run(0)))
    record_path(store, make_run(1)).write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [result.run.seed for result in store.results()] == [0]
    assert record_path(store, make_run(1)).exists()


def test_put_refuses_what_it_would_not_give_back(store: Store) -> None:
    run = make_run(0)
    bad = Result(run=run, status="finished", metrics={}, provenance={"data_fingerprint": "0" * 64})
    with pytest.raises(ValueError, match="other data than the canonical digits_28"):
        store.put(bad)
    assert not record_path(store, run).exists()


def test_published_records_stand_in(tmp_path: Path) -> None:
    published = tmp_path / "published"
    write_records(published / "a.jsonl", [result_of(make_run(seed), wall_seconds=1.0) for seed in (3, 1, 2)])
    store = Store(tmp_path / "runs", published)
    assert store.get(make_run(2)).provenance["wall_seconds"] == 1.0
    store.put(result_of(make_run(2), wall_seconds=2.0))
    assert store.get(make_run(2)).provenance["wall_seconds"] == 2.0, "this machine's comes first"
    assert sorted(result.run.seed for result in store.results()) == [1, 2, 3]
    record_path(store, make_run(2)).write_text("{")
    with pytest.warns(UserWarning, match="moved to"):
        assert store.get(make_run(2)).provenance["wall_seconds"] == 1.0


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe not text", b'{"schema":2}'])
def test_a_damaged_published_line_is_skipped(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "a.jsonl"
    write_records(file, [result_of(make_run(seed)) for seed in (0, 1)])
    first, second = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join((first, line, second)) + b"\n")
    with pytest.warns(UserWarning, match="a.jsonl, line 2 is not used"):
        assert {result.run.seed for result in read_records(file)} == {0, 1}


def test_a_published_file_does_not_depend_on_the_order(tmp_path: Path) -> None:
    results = [result_of(make_run(seed)) for seed in range(5)]
    write_records(tmp_path / "a.jsonl", results)
    write_records(tmp_path / "b.jsonl", reversed(results))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert list(read_records(tmp_path / "a.jsonl")) == sorted(results, key=lambda result: result.run.digest)


def test_nan_is_null_in_the_file_and_nan_again_afterwards(store: Store) -> None:
    run = make_run(0)
    metrics = {"a": math.nan, "b": [1.0, math.inf], "c": {"d": math.nan}}
    provenance = result_of(run).provenance
    store.put(Result(run=run, status="diverged", metrics=metrics, provenance=provenance, diverged_at_step=7))
    assert json.loads(record_path(store, run).read_text())["metrics"] == {"a": None, "b": [1.0, None], "c": {"d": None}}
    stored = store.get(run)
    assert stored.status == "diverged" and stored.diverged_at_step == 7
    assert (
        math.isnan(stored.metrics["a"]) and math.isnan(stored.metrics["b"][1]) and math.isnan(stored.metrics["c"]["d"])
    )


def test_a_claim_is_held_once_and_comes_free(store: Store) -> None:
    run = make_run(0)
    claim = store.claim(run)
    assert claim is not None
    assert store.claim(run) is None
    assert store.claim(make_run(1)) is not None
    claim.release()
    again = store.claim(run)
    assert again is not None
    store.release(again)
    assert not Path(again.lock_file).exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_and_nobody_waits_for_the_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    run, node = make_run(0), os.fork()
    monkeypatch.setattr(fcntl, "flock", refuse)
    if node == 0:  # another node, which dies while it holds the run, if it gets that far
        with contextlib.suppress(OSError):
            store.claim(run)
        os._exit(9)
    os.waitpid(node, 0)
    for _ in range(2):
        with pytest.raises(OSError, match=f"^{store.folder / 'claims'} is .* without file locks .*DEEPNETS_OUTPUT"):
            store.claim(run)
    monkeypatch.undo()
    assert store.claim(run) is not None


def test_write_whole_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def break_off(file) -> None:
        file.write(b"new, but")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, break_off)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_move_aside_when_another_process_was_faster(tmp_path: Path) -> None:
    assert move_aside(tmp_path / "gone") == f"moved to {tmp_path / 'gone.damaged-1'}"


def test_a_damaged_record_is_passed_over_where_nothing_may_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(0)
    store.put(result_of(run))
    path = record_path(store, run)
    path.write_bytes(b"{")

    def refuse(*paths: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="is not used: .*it stays where it is .Read-only file system"):
        assert store.get(run) is None
    assert path.read_bytes() == b"{"


@pytest.mark.parametrize("count", [2000])
def test_time_and_memory_grow_with_the_number_of_records_and_no_faster(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """10,000 records of 3 KB took 2.4 s of one core and 137 MiB in a sweep that found all, and 1,000 a tenth."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    runs = [make_run(seed) for seed in range(count)]
    for run in runs:
        store.put(result_of(run))

    def seconds(work: Callable[[], object]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    sweep(runs[:1], store=store, trainer="none:none")  # what a first sweep imports does not grow with the records
    for part in (runs[: count // 10], runs):
        fresh = [dataclasses.replace(run) for run in part]  # without their digests
        assert seconds(lambda fresh=fresh: sweep(fresh, store=store, trainer="none:none")) < 0.05 + 0.002 * len(part)
    assert seconds(lambda: list(store.results())) < 0.002 * count
    tracemalloc.start()
    sweep(runs, store=store, trainer="none:none")
    assert tracemalloc.get_traced_memory()[1] < 30_000 * count
    tracemalloc.stop()
