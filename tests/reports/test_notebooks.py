"""The notebooks themselves: each runs whole in smoke, its exercises are solved, printed numbers come out."""

import ast
import collections
import contextlib
import dis
import io
import json
import re
from html import escape
from urllib.parse import unquote

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell
from tables import LABELS, table_of

from deepnets_utils.data import inventory
from deepnets_utils.data.tasks import task
from deepnets_utils.models import build_model, model
from deepnets_utils.reports import printing
from deepnets_utils.reports.notebooks import new_notebook, notebook_path, reads_others, study_names
from deepnets_utils.reports.parameters import STANDARD, parse_values, read_parameters
from deepnets_utils.reports.reporting import make_report, make_reports
from deepnets_utils.results import comparison
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.run import Run
from deepnets_utils.runs.store import Store
from deepnets_utils.study import Study
from deepnets_utils.sweeps.sweep import sweep

SOLUTION = re.compile(r"```python\n(.*?)```", re.DOTALL)


COURSE = [name for name in study_names() if name[:2] <= "08"]  # your own need no exercises, and nothing to change
WITHOUT_SOME_NETWORKS = {"02_depth_sweep", "06_residual_googlenet"}  # smoke leaves the slowest ones out
OF_LABELS = (", none", ", extended")  # readings of 04 that leave most distilled students out


@pytest.fixture(scope="module")
def smoke(request, tmp_path_factory):
    """The folder of a smoke report of the studies that are tested, and by study its error, summary and tables.

    Several at once, as `make report` does; DEEPNETS_OUTPUT stays at what it trained.
    """
    asked = {item.callspec.params["study"] for item in request.session.items if "smoke" in item.fixturenames}
    with pytest.MonkeyPatch.context() as patch:
        output = tmp_path_factory.mktemp("output")
        patch.setenv("DEEPNETS_OUTPUT", str(output))
        folder = output / "reports" / "smoke"
        outcomes = make_reports([(study, {"profile": "smoke"}) for study in sorted(asked)])
        yield folder, {of.study: (of.error, *written(folder, of.study)) for of in outcomes}


def written(folder, study):
    """Return a study's summary and, by file, the tables that it wrote."""
    summary = json.loads((folder / f"{study}.json").read_text())
    return summary, {table["file"]: pd.read_csv(folder / table["file"]) for table in summary["tables"]}


@pytest.mark.slow
@pytest.mark.parametrize("study", [name for name in study_names() if not reads_others(notebook_path(name))])
def test_smoke_runs_whole(study, smoke):
    folder, made = smoke
    error, summary, _ = made[study]
    assert error == ""
    assert summary["runs"]["trained"] > 0 == summary["runs"]["missing"] and summary["banner"]
    assert summary["tables"] or any(claim["n"] for claim in summary["claims"]), "numbers to look at"
    runs = pd.read_csv(folder / "tables" / f"{study}_runs.csv")
    assert runs["status"].eq("finished").any() and not runs["status"].eq("missing").any()
    assert summary["findings"] and (summary["audit"] or study not in COURSE)
    own = [pd.read_csv(io.StringIO("\n".join([table["columns"], *table["rows"]]))) for table in summary["tables"]]
    for table, rows in zip(summary["tables"], own, strict=True):
        in_part = study in WITHOUT_SOME_NETWORKS or table["title"].endswith(OF_LABELS)
        assert len(rows) and (in_part or rows["ours"].notna().all())
    assert not own or pd.concat(own)["ours"].notna().any()
    assert (folder / f"{study}.html").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("study", study_names())
def test_each_link_of_a_page_leads_somewhere(study, smoke):
    folder, _ = smoke
    for link in BeautifulSoup((folder / f"{study}.html").read_text(), "html.parser").find_all("a", href=True):
        file, _, section = unquote(link["href"]).partition("#")
        target = (folder / file) if file else folder / f"{study}.html"
        assert target.exists(), link
        assert not section or f'id="{escape(section, quote=False)}"' in target.read_text(), link


def code_cells(study):
    cells = json.loads(notebook_path(study).read_text(encoding="utf-8"))["cells"]
    return [
        ("".join(cell["source"]), "parameters" in cell["metadata"].get("tags", []))
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def names(code):
    """Return what a cell binds, and what it takes as other cells left it: at once, or in a function whenever called.

    code: of the cell, compiled. An instruction further down counts as a later one.
    """
    bound, taken = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            bound.add(step.argval)
        elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            taken |= {step.argval} - bound
        elif isinstance(step.argval, type(code)):
            inside = names(step.argval)[1]
            taken |= inside - bound if step.argval.co_name.endswith(("comp>", "expr>")) else inside
    return bound, taken


@pytest.mark.parametrize("study", study_names())
def test_no_cell_changes_a_parameter(study):
    # The cells above it, run once more, would take what it left behind.
    cells = [names(compile(source, study, "exec"))[0] for source, parameters in code_cells(study) if not parameters]
    found = set().union(*cells)
    assert found and not found & set(read_parameters(notebook_path(study)))


def bound_twice(sources):
    """Return the names that two cells bind, not each by an import, and a cell takes from them."""
    binders, assigned, taken = collections.Counter(), set(), set()
    for source in sources:
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
        imported = {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
        bound, other = names(compile(source, "cell", "exec"))
        binders.update(bound)
        assigned |= bound - imported
        taken |= other
    return {name for name in assigned & taken if binders[name] > 1}


@pytest.mark.parametrize("study", study_names())
def test_a_name_that_another_cell_takes_is_bound_in_one(study):
    """Else what a cell shows when it is run again hangs on which of them was run last; solutions are cells, too."""
    sources = [source for source, _ in code_cells(study)] + SOLUTION.findall(exercises(study))
    assert not bound_twice(sources)


def test_names_that_are_bound_twice_are_told_from_those_that_a_cell_binds_for_itself():
    assert bound_twice(["shown = 1", "print(shown)", "shown = [2]"]) == {"shown"}
    assert bound_twice(["rate = 1", "def f():\n    return rate", "f()", "for rate in (1, 2): pass"]) == {"rate"}
    assert bound_twice(["total = 1", "total += 1"]) == {"total"}
    assert bound_twice(["x = [1]", "x = [a for a in x]"]) == {"x"}
    assert bound_twice(["from numpy import mean", "mean = 1", "print(mean)"]) == {"mean"}
    assert not bound_twice(["for axes in (1, 2): print(axes)", "axes = 3\nprint([axes + a for a in (1, 2)])"])
    assert not bound_twice(["import json\nprint(json)", "import json", "def f(json_):\n    return json.loads(json_)"])
    assert not bound_twice(["line = 1", "def f(line):\n    return line", "line = 2"])


def exercises(study):
    cells = json.loads(notebook_path(study).read_text(encoding="utf-8"))["cells"]
    return next((text for cell in cells if (text := "".join(cell["source"])).startswith("## Exercises")), "")


@pytest.mark.parametrize("study", COURSE)
def test_three_to_five_exercises_each_with_a_folded_solution(study):
    text = exercises(study)
    numbers = re.findall(r"^(\d)\. ", text, re.MULTILINE)
    assert 3 <= len(numbers) <= 5 and numbers == [str(place) for place in range(1, len(numbers) + 1)]
    assert text.count("<details><summary>Solution</summary>") == text.count("</details>") == len(numbers)
    assert SOLUTION.search(text)


@pytest.mark.slow
@pytest.mark.parametrize("study", study_names())
def test_a_second_time_from_the_store_each_cell_shows_the_same_as_often_as_it_runs(study, smoke, monkeypatch):
    """In this process and without drawing each figure again: the notebook itself has run in a kernel.

    Again from the last cell to the first, so that each finds what the cells below it have left; then the solutions.
    """
    folder, made = smoke
    shell, texts = InteractiveShell(), []

    def show(*objects):
        for thing in objects:
            forms = shell.display_formatter.format(thing)[0]
            texts.append(re.sub("T_[0-9a-f]{5}", "", forms.get("text/html", forms["text/plain"])))  # a Styler's name

    def run(source):
        texts.clear()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            shell.run_cell(source).raise_error()
        return [printed.getvalue(), *texts]

    monkeypatch.setattr(Study, "figure", lambda study, figure, *said: plt.close(figure) or " ".join(said))
    monkeypatch.setattr(IPython.display, "display", show)
    shell.display_trap.hook = show
    cells = [source + '\nprofile = "smoke"' * parameters for source, parameters in code_cells(study)]
    first = [run(source) for source in cells]
    assert any(map(any, first))
    _, before, numbers = made[study]
    again, stored = written(folder, study)
    assert again["runs"]["trained"] == again["runs"]["missing"] == 0
    verdicts = [{claim["id"]: claim["verdict"] for claim in summary["claims"]} for summary in (before, again)]
    assert verdicts[0] == verdicts[1] and stored.keys() == numbers.keys()
    for file, table in numbers.items():
        pd.testing.assert_frame_equal(stored[file], table)
    for source, shown in reversed(list(zip(cells, first, strict=True))):
        assert run(source) == shown, source
    for solution in SOLUTION.findall(exercises(study)):
        shell.run_cell(solution).raise_error()


@pytest.mark.slow
def test_the_notebook_of_a_new_study_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    path = new_notebook("10_mine")
    for name in ("10_other", "9_mine", "11_Mine"):
        with pytest.raises(ParameterError, match="10_mine has the number 10 already|two digits"):
            new_notebook(name)
    cells = [source + '\nprofile = "smoke"' * parameters for source, parameters in code_cells("10_mine")]
    assert "".join(json.loads(path.read_text())["cells"][0]["source"]).startswith("# 10. ")
    assert sum(cell.count("\n") + 1 for cell in cells) < 60 and not bound_twice(cells)
    namespace = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), namespace)
    summary = json.loads((namespace["study"].folder / "10_mine.json").read_text())
    assert summary["runs"]["trained"] == summary["runs"]["total"] == 4
    assert summary["claims"][0]["n"] == 2 and "ResNet is wrong on" in summary["findings"] and summary["figures"]


ALONE = [
    (study, name, choice)
    for study in study_names()
    for name, parameter in read_parameters(notebook_path(study)).items()
    if name not in STANDARD
    for choice in parameter.choices[:: max(1, len(parameter.choices) - 1)]
    if choice != parameter.default
]


@pytest.mark.slow
@pytest.mark.parametrize(("study", "name", "choice"), ALONE)
def test_each_choice_alone_gives_a_page(study, name, choice, tmp_path, monkeypatch):
    """The first and the last of each parameter, from published records, with figures drawn and not saved."""
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    monkeypatch.setattr(Study, "figure", lambda study, figure, *said: plt.close(figure))
    monkeypatch.setattr(IPython.display, "display", lambda *shown, **how: None)
    value = parse_values(study, {name: choice})[name]
    given = f'\nprofile, train, {name} = "overnight", "never", {value!r}'
    namespace = {}
    for source, parameters in code_cells(study):
        exec(compile(source + given * parameters, "cell", "exec"), namespace)
    [file] = (tmp_path / "reports").glob(f"*/{study}.json")
    summary = json.loads(file.read_text())
    assert summary["runs"]["total"] and summary["findings"]
    said = [summary["findings"], *(line["change"] for line in summary["audit"])]
    assert not re.search(r"\b(nan|inf|NaN)\b|[{}]", "\n".join(said))


def function_of(study, name):
    defined, namespace = [ast.parse(source).body for source, _ in code_cells(study)], {"np": np, "pd": pd}
    node = next(node for node in sum(defined, []) if isinstance(node, ast.FunctionDef) and node.name == name)
    exec(compile(ast.Module([node], []), study, "exec"), namespace)
    return namespace[name]


def test_training_times_are_compared_on_one_device_and_path():
    def runs(network, device, path, *seconds, status="finished"):
        return [(network, device, path, second, status) for second in seconds]

    slow = [*runs("ResNet", "cpu", "loop", 50, 51), *runs("ResNet", "gpu", "replicas", 3)]
    quick = [*runs("LeNet5", "cpu", "loop", 5, 6, 7), *runs("LeNet5", "gpu", "replicas", 1, 1, 1, 1)]
    lost = runs("ResNet", "cpu", "loop", 1, 1, 1, status="diverged") + runs("LeNet5", None, None, 2, status="missing")
    table = pd.DataFrame(slow + quick + lost, columns=["network", "device", "path", "cpu_seconds", "status"])
    kind, alike = function_of("05_siamese_ablation", "seconds_alike")(table)
    left = alike[alike["status"] != "missing"]
    assert kind == ("cpu", "loop") and list(left["cpu_seconds"]) == [50, 51, 5, 6, 7] and len(alike) == len(table)


def test_table_2_of_go_deep_is_printed_digit_for_digit_but_for_one_cell(store: Store):
    if not inventory.present("fashion_mnist"):
        pytest.skip("Fashion-MNIST is not on this machine")
    labels = [(statistic, value) for statistic in ("mean", "median", "std") for value in ("zero", "mean", "median")]
    runs = [
        Run(
            dataset="fashion_mnist",
            task=task("pixel_statistic", statistic=statistic, validation_size=0),
            model=model("constant", statistic=value, fit_on="test"),
        )
        for statistic, value in labels
    ]
    found = dict(zip(labels, sweep(runs, store=store), strict=True))
    sigma = {(statistic, "sigma"): found[statistic, "zero"].metrics["test_target_std"] for statistic, _ in labels}
    mse = {label: result.metrics["test_mse"] for label, result in found.items()}
    losses = comparison.compare(mse, "go_deep", "table2", "test_mse", exact=True)
    spreads = comparison.compare(sigma, "go_deep", "table2", "target_std", exact=True)
    table = pd.concat([losses, spreads])
    assert len(table) == 12
    different = table[table["verdict"] != "same"]
    assert list(zip(different["row"], different["column"], strict=True)) == [("mean", "sigma")]
    assert different["ours"].item() == pytest.approx(0.12576, abs=5e-6)
    assert found["median", "zero"].metrics["test_target_zero_fraction"] == pytest.approx(0.480, abs=5e-4)


def test_the_printed_parameter_counts_are_those_of_the_networks():
    names = ("LeNet5", "LeNet5_FullyConv", "Net", "ResNet")
    counts = {(name, "parameters"): sum(p.numel() for p in build_model(model(name)).parameters()) for name in names}
    table = comparison.compare(counts, "siamese", "text", "parameters", exact=True)
    assert list(table["verdict"]) == ["same"] * 4


def test_a_study_whose_quick_profile_plans_no_run_of_a_part_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    values = {"profile": "quick", "train": "never", "device": "cpu", "workers": 1}
    assert make_report("05", values).error == "", "fresh pairs have no seeds there"


@pytest.mark.slow
def test_the_summary_says_what_the_studies_wrote_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPNETS_OUTPUT", str(tmp_path))
    values = {"profile": "paper", "train": "never", "device": "cpu", "workers": 1}
    siamese, baselines = Study("05_siamese_ablation", values), Study("01_baselines", values)
    rng = np.random.default_rng(0)
    errors = {"sharing, no aux": 14.97, "sharing, aux": 5.16}
    cells = {
        (net, column): rng.normal(mean, 0.6, 10) for net in ("LeNet5", "ResNet") for column, mean in errors.items()
    }
    siamese.compare(table_of(cells, "as_coded"), "siamese", "table1", "test_error", **LABELS)
    siamese.judge(["siamese.resnet_above_lenet", "siamese.aux_lowers"], ["as_coded"])
    siamese._audit = [{"finding": "a <flaw>", "text": "one run & no more", "change": "spread 0.123"}]
    siamese.finish()
    baselines.banner = "These numbers come from the digits."
    baselines.finish()
    smaller = Study("04_distillation", values | {"profile": "overnight"})
    smaller.settings(epochs=(1, 2, 12, 75))
    accuracies = {(name, "labels"): [75.0, 76.0] for name in ("Teacher-1", "Deep-ResNet")}
    smaller.compare(table_of(accuracies), "distillation", "table5", "test_accuracy", **LABELS)
    smaller.judge(["distillation.resnet_improves_teacher", "distillation.labels_overfit"])
    smaller.finish()
    (smaller.folder / "04_distillation.html").touch()
    outcome = make_report("08", {"profile": "paper", "train": "never"})
    assert outcome.error == ""
    page = BeautifulSoup((outcome.folder / "08_summary.html").read_text(), "html.parser")
    for code in page.select(".input_area"):
        code.decompose()
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in page.find_all("tr")]
    written = json.loads((outcome.folder / "05_siamese_ablation.json").read_text())
    for claim in written["claims"]:
        (row,) = [row for row in rows if len(row) > 8 and row[0] == claim["statement"]]
        means = f"{claim['pointing']} of {claim['comparisons']} point the claimed way, {claim['shown']} shown"
        numbers = [printing.effect(claim)[0], f"{claim['low']:.3g} to {claim['high']:.3g}"]
        assert " points " in numbers[0] and " against " in numbers[0]
        assert row[1:7] == ["as_coded", "paper", claim["verdict"], means, *numbers]
    (row,) = [row for row in rows if len(row) > 8 and row[0] == "Residual connections improve the teacher"]
    assert row[2:5] == ["overnight", "undecided", "0 of 1 point the claimed way, 0 shown"]
    links = {link["href"] for link in page.select(".output a[href^='../overnight']")}
    assert links >= {"../overnight/04_distillation.html#Verdicts", "../overnight/tables/distillation_table5.csv"}
    assert all((outcome.folder / link.partition("#")[0]).exists() for link in links)
    table = written["tables"][0]
    (counts,) = [row for row in rows if table["title"] in row]
    assert counts[2:9] == [str(table[key]) for key in ("cells", *comparison.WORDS)]
    assert table["cells"] == 16 and table["missing"] == 12
    assert ["a <flaw>", "one run & no more", "spread 0.123"] in rows
    assert "01_baselines: made with scikit-learn's bundled digits" in page.select_one(".banner").get_text()
    for study in set(study_names()) - {"01_baselines", "05_siamese_ablation", "08_summary"}:
        (row,) = [row for row in rows if row[0] == study]
        assert "missing" in row and row[-1] == f"make report STUDY={study[:2]} PROFILE=paper"
    assert all((outcome.folder / link["href"]).exists() for link in page.select(".output a[href^=tables]"))
    own = json.loads((outcome.folder / "08_summary.json").read_text())
    assert own["runs"]["total"] == 0 and not own["claims"] and len(own["figures"]) == 2
