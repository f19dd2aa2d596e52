import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepnets_utils.reports.notebooks import notebook_path
from deepnets_utils.reports.parameters import Parameter, check_parameters, read_parameters
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError

CELL = """\
# What the notebook is run with
profile: str = "quick"  # {smoke, quick, paper} how large
train: str = "missing"  # {missing, never}  what to do about runs that are not stored
seeds: int = 0  # runs per cell; 0 as the profile says
learning_rate: float = 0.5
rates: list = [0.1, 0.2]  # the grid # of rates
yes: bool = False  # go on although it takes long
title: str = "a # in a text"
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    def write(*sources: str) -> Path:
        cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text"]}]
        cells += [
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source.splitlines(keepends=True)}
            for source in sources
        ]
        cells.append({"cell_type": "code", "metadata": {"tags": ["other"]}, "source": "profile = 5"})
        path = tmp_path / "01_study.ipynb"
        path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
        return path

    return write


@pytest.fixture
def declared(notebook: Callable[..., Path]) -> dict[str, Parameter]:
    return read_parameters(notebook(CELL))


def test_what_a_notebook_declares(declared: dict[str, Parameter]) -> None:
    assert list(declared.values()) == [
        Parameter("profile", "str", "quick", "how large", ("smoke", "quick", "paper")),
        Parameter("train", "str", "missing", "what to do about runs that are not stored", ("missing", "never")),
        Parameter("seeds", "int", 0, "runs per cell; 0 as the profile says", ()),
        Parameter("learning_rate", "float", 0.5, "", ()),
        Parameter("rates", "list", [0.1, 0.2], "the grid # of rates", ()),
        Parameter("yes", "bool", False, "go on although it takes long", ()),
        Parameter("title", "str", "a # in a text", "", ()),
    ]
    assert list(declared) == [parameter.name for parameter in declared.values()]


@pytest.mark.parametrize("sources", [(), (CELL, CELL)])
def test_there_is_one_cell_of_parameters(notebook: Callable[..., Path], sources: tuple) -> None:
    with pytest.raises(ParameterError, match=f"01_study.ipynb has {len(sources)} cells tagged 'parameters'"):
        read_parameters(notebook(*sources))


@pytest.mark.parametrize(
    "line",
    [
        "seeds = 3",
        "seeds: int",
        "seeds: int | None = None",
        "seeds: dict = {}",
        "seeds: int = 2 * 3",
        "seeds: int = len('abc')",
        "import os",
        "settings.seeds: int = 3",
    ],
)
def test_lines_of_another_form(notebook: Callable[..., Path], line: str) -> None:
    with pytest.raises(ParameterError, match="01_study.ipynb, parameters cell, line 2: write `name: type = literal"):
        read_parameters(notebook(f"a: int = 1\n{line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        'seeds: int = "3"',
        "seeds: int = True",
        "seeds: int = -1",
        "share: float = 1.5  # {0..1}",
        'profile: str = "qick"  # {smoke, quick}',
    ],
)
def test_impossible_defaults(notebook: Callable[..., Path], line: str) -> None:
    with pytest.raises(ParameterError, match="must be|must not be"):
        read_parameters(notebook(line))


def test_limits_of_a_number(notebook: Callable[..., Path]) -> None:
    declared = read_parameters(notebook("scale: float = 0.6  # {0.01..1} of the area\nangle: int = 15  # {0..180}\n"))
    assert declared["scale"] == Parameter("scale", "float", 0.6, "of the area", limits=(0.01, 1.0))
    assert (declared["scale"].allowed(), declared["angle"].allowed()) == ("{0.01..1}", "{0..180}")
    rates = read_parameters(notebook("rates: list = []  # {1e-8..12345678}"))["rates"]
    assert rates.allowed() == "{1e-08..12345678}" and rates.parse("1e-3,2") == [1e-3, 2]
    for text in ("-1", "abc", "[True]", "[0.1, '1']", "[0.1"):
        call = "write -p 'rates=1e-08,12345678', for papermill -p rates '1e-08,12345678'"
        with pytest.raises(ParameterError, match=f"rates must be from 1e-08 to 12345678; it is .*{call}"):
            rates.parse(text)
    with pytest.raises(ParameterError, match="rates must not name anything twice; 0.001 is there 2 times"):
        rates.parse("1e-3,2,0.001")
    assert check_parameters(declared, {"scale": 1, "angle": 0}) == {"scale": 1.0, "angle": 0}
    for values, words in (
        ({"scale": 0.0}, "scale must be from 0.01 to 1; it is 0.0"),
        ({"angle": 181}, "to 180; it is"),
    ):
        with pytest.raises(ParameterError, match=words):
            check_parameters(declared, values)


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("[1, 2]", ["1", "2"]),
        ("1,2", ["1", "2"]),
        ("[None]", ["None"]),
        ("[Base,None]", ["Base", "None"]),
        ("Base, a word", ["Base", "a word"]),
        ("['Base', \"None\"]", ["Base", "None"]),
        ("[]", []),
        ([1, None, "Base"], ["1", "None", "Base"]),
        ("Base", ["Base"]),  # as papermill's -p gives it, and the next three
        (1, ["1"]),
        (None, ["None"]),
        ("[1, 2]", ["1", "2"]),
    ],
)
def test_items_of_a_list_are_matched_with_the_choices_by_their_text(
    notebook: Callable[..., Path], given: object, items: list[str]
) -> None:
    networks = read_parameters(notebook("networks: list = []  # {None, Base, 1, 2, a word} which"))["networks"]
    assert networks.check(given) == items


def test_a_number_may_have_choices(notebook: Callable[..., Path]) -> None:
    depth = read_parameters(notebook("depth: int = 11  # {11, 13} layers"))["depth"]
    assert depth.parse("13") == 13
    with pytest.raises(ParameterError, match="depth must be one of 11, 13; it is 12"):
        depth.check(12)


@pytest.mark.parametrize("given", ["3", "[1, 3]", "[1", "", True, {"1": 2}, ("1",), [["1"]]])
def test_a_wrong_list_is_answered_with_a_call_that_works(notebook: Callable[..., Path], given: object) -> None:
    networks = read_parameters(notebook("networks: list = []  # {None, Base, 1, 2} which"))["networks"]
    with pytest.raises(ParameterError) as error:
        networks.check(given)
    if not isinstance(given, dict | tuple):
        assert "write -p 'networks=None,Base', for papermill -p networks 'None,Base'" in str(error.value)
        assert networks.parse("None,Base") == networks.check("None,Base") == ["None", "Base"]


@pytest.mark.parametrize(
    "line", ["a: int = 1  # {0..}", "a: float = 1.0  # {1.2.3..4}", 'a: str = "2"  # {1..3}', "a: int = (", "a b"]
)
def test_cells_that_cannot_be_read(notebook: Callable[..., Path], line: str) -> None:
    with pytest.raises(ParameterError, match="01_study.ipynb, parameters cell"):
        read_parameters(notebook(line))


def test_defaults_and_given_values(declared: dict[str, Parameter]) -> None:
    defaults = {name: parameter.default for name, parameter in declared.items()}
    assert check_parameters(declared, {}) == defaults
    checked = check_parameters(declared, {"seeds": 3, "learning_rate": 1, "profile": "paper"})
    assert checked == defaults | {"seeds": 3, "learning_rate": 1.0, "profile": "paper"}
    assert type(checked["learning_rate"]) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": 3}, r"no parameter is called 'seed' \(did you mean seeds\?\); there are profile, train, seeds"),
        ({"zzz": 3}, r"no parameter is called 'zzz'; there are profile"),
        ({"profile": "large"}, "profile must be one of smoke, quick, paper; it is 'large'"),
        ({"profile": 3}, r"profile must be str, not 3 \(int\)"),
        ({"seeds": 2.0}, r"seeds must be int, not 2.0 \(float\)"),
        ({"seeds": True}, r"seeds must be int, not True \(bool\)"),
        ({"seeds": -1}, "seeds must be from 0 to 1000; it is -1"),
        ({"seeds": 10**20}, "seeds must be from 0 to 1000; it is 100000000000000000000"),
        ({"learning_rate": float("nan")}, "learning_rate must be from 0 to 1000"),
        ({"learning_rate": float("inf")}, "learning_rate must be from 0 to 1000"),
        ({"learning_rate": "0.1"}, "learning_rate must be float"),
        ({"yes": 1}, r"yes must be bool, not 1 \(int\)"),
        ({"rates": (0.1,)}, "rates must be list"),
        ({"title": None}, "title must be str"),
    ],
)
def test_impossible_values(declared: dict[str, Parameter], values: dict, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_parameters(declared, values)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("profile", "paper", "paper"),
        ("title", "12", "12"),
        ("title", "", ""),
        ("title", "a=b", "a=b"),
        ("seeds", "12", 12),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "2", 2.0),
        ("yes", "true", True),
        ("yes", "False", False),
        ("rates", "[0.1, 1]", [0.1, 1]),
        ("rates", "[]", []),
    ],
)
def test_values_of_a_command_line(declared: dict[str, Parameter], name: str, text: str, value: object) -> None:
    parsed = declared[name].parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("profile", "large"),
        ("seeds", "three"),
        ("seeds", "1.5"),
        ("seeds", "-1"),
        ("seeds", ""),
        ("seeds", "__import__('os')"),
        ("learning_rate", "nan"),
        ("learning_rate", "1e999"),
        ("yes", "1"),
        ("yes", "maybe"),
    ],
)
def test_wrong_values_of_a_command_line(declared: dict[str, Parameter], name: str, text: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} must be"):
        declared[name].parse(text)


def test_a_study_by_name_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    for name in ("05_five", "01_one", "10_ten", "draft"):
        (tmp_path / f"{name}.ipynb").touch()
    for text, name in (("5", "05_five"), ("05", "05_five"), ("1", "01_one"), ("10_ten", "10_ten")):
        assert notebook_path(text) == tmp_path / f"{name}.ipynb"
    for text in ("0", "2", "five", "draft", ""):
        with pytest.raises(ParameterError, match="there are 01_one, 05_five, 10_ten"):
            notebook_path(text)
