"""Choosing runs and looking at their curves, with the widgets but without a browser."""

from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest

from deepnets_utils.reports.exploring import EVERY, Compared, Explorer
from deepnets_utils.reports.figures import relplot

TABLE = pd.DataFrame(
    [(p, network, seed) for p in ("text", "code") for network in ("Net", "LeNet5") for seed in (1, 2)],
    columns=["protocol", "network", "seed"],
).assign(status=["finished"] * 5 + ["missing", "finished", "diverged"], digest=[f"d{k}" for k in range(8)], label="aux")
FRAME = pd.DataFrame(
    {
        "row": ["Net", "LeNet5", "Net", "LeNet5"],
        "column": "aux",
        "protocol": ["text", "text", "code", "code"],
        "printed": ["9.1", "7.3", "9.1", ""],
        "ours": [8.25, 7.5, float("nan"), 1.0],
        "n": [2, 2, 0, 1],
    }
)


def curves(table: pd.DataFrame, name: str) -> pd.DataFrame:
    stored = table[table["status"] != "missing"]
    return pd.concat([stored.assign(epoch=epoch, **{name: 1 / epoch}) for epoch in (1, 2, 3)])


def explorer(train: Any = None) -> Explorer:
    return Explorer(
        TABLE, ["train_loss", "test_error"], curves, [Compared("Table I", "network", "label", FRAME)], train
    )


def test_the_first_choice_is_open_in_its_last_factor() -> None:
    assert explorer().choice == {"protocol": "text", "network": EVERY, "seed": EVERY}
    assert list(explorer().chosen()["digest"]) == ["d0", "d1", "d2", "d3"]


def test_what_is_stored_and_printed_is_said() -> None:
    of = explorer()
    assert of.said().split("<br>") == [
        "4 of 4 chosen runs are stored.",
        "Table I, Net, aux text: printed 9.1, ours 8.25 (n = 2)",
        "Table I, LeNet5, aux text: printed 7.3, ours 7.5 (n = 2)",
    ]
    of.choice |= {"protocol": "code", "network": "Net"}
    assert of.said() == "1 of 2 chosen runs are stored.<br>Table I, Net, aux code: printed 9.1, ours (not run)"


def test_a_line_a_run_and_a_colour_a_cell() -> None:
    [axes] = explorer().draw().axes
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert len(drawn) == 4 and len({line.get_color() for line in drawn}) == 2
    of = explorer()
    of.choice |= {"network": "Net", "seed": 2}
    assert sum(bool(len(line.get_xdata())) for line in of.draw().axes[0].lines) == 1


def test_runs_without_an_epoch_are_no_picture() -> None:
    of = Explorer(TABLE, ["train_loss"], lambda table, name: curves(table, name).iloc[:0], [], None)
    of.choice["protocol"] = EVERY
    assert not of.draw().axes


def test_losses_are_drawn_logarithmically_and_accuracies_linearly() -> None:
    of = explorer()
    assert of.draw().axes[0].get_yscale() == "log"
    of.name = "validation_accuracy"
    assert of.draw().axes[0].get_yscale() == "linear"


def test_a_panel_without_a_curve_says_so_beside_others() -> None:
    data = pd.DataFrame({"training": ["a", "a", "b"], "reading": ["c", "d", "c"], "epoch": 1, "loss": [1.0, 2.0, 3.0]})
    look = dict(x="epoch", y="loss", col="reading")
    said = [[text.get_text() for text in axes.texts] for axes in relplot(data, row="training", **look).axes]
    assert said == [[], [], [], ["nothing to draw"]]
    assert not relplot(data.assign(loss=float("nan")), **look).axes, "of runs that diverged at once"


def boxes(widget: widgets.Widget) -> dict[str, widgets.Dropdown]:
    return {box.description: box for box in widget.children[0].children}


def test_a_choice_changes_the_picture_and_the_button_trains_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[list[str]] = []

    def train(rows: pd.DataFrame) -> pd.DataFrame:
        trained.append(list(rows["digest"]))
        return TABLE.assign(status="finished")

    of = explorer(train)
    widget = of.widgets()
    chosen = boxes(widget)
    assert list(chosen) == ["protocol", "network", "seed", "history"]
    chosen["protocol"].value, chosen["network"].value, chosen["history"].value = "code", "Net", "test_error"
    assert (of.choice["protocol"], of.choice["network"], of.name) == ("code", "Net", "test_error")
    assert list(of.chosen()["digest"]) == ["d4", "d5"]
    widget.children[1].click()
    assert trained == [["d4", "d5"]] and "2 of 2 chosen runs are stored" in of.said()
    assert explorer().widgets().children[1].disabled, "where nothing is to be trained"
