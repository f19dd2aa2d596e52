"""The project's own files: notebooks clean, packages named alike everywhere, nothing of one machine in git."""

import ast
import graphlib
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from deepnets_utils.reports.notebooks import notebook_path, study_names
from deepnets_utils.reports.parameters import read_parameters
from deepnets_utils.runs import paths

STANDARD = {"profile": "str", "train": "str", "data": "str", "device": "str", "workers": "int", "yes": "bool"}


def names(lines: list[str]) -> dict[str, str]:
    """Package name -> version range."""
    found = (re.match(r"([A-Za-z0-9_.-]+)(.*)", line) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2].strip() for match in found}


@pytest.fixture(scope="module")
def declared() -> dict[str, str]:
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    return names([*project["dependencies"], *project["optional-dependencies"]["dev"]])


def test_there_are_notebooks():
    assert {"01_baselines", "05_siamese_ablation"} <= set(study_names())


@pytest.mark.parametrize("study", study_names())
def test_notebook_in_git_is_clean(study: str):
    notebook = json.loads(notebook_path(study).read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "".join(notebook["cells"][0]["source"]).startswith(f"# {int(study[:2])}. ")
    assert re.fullmatch(r"study\.finish\((later=.+)?\)", "".join(code[-1]["source"]))
    assert f'Study("{study}", globals())' in "\n".join("".join(cell["source"]) for cell in code)


@pytest.mark.parametrize("study", study_names())
def test_parameters_have_types_and_help_and_the_standard_ones_are_there(study: str):
    parameters = read_parameters(notebook_path(study))
    assert {name: parameters[name].type for name in STANDARD} == STANDARD
    assert all(parameter.help for parameter in parameters.values())
    assert parameters["profile"].choices == ("smoke", "quick", "overnight", "paper")
    assert parameters["profile"].default == "quick"


def test_requirements_name_the_same_packages_and_end_with_the_package_itself(declared: dict[str, str]):
    lines = [line for line in (paths.ROOT / "requirements.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    assert lines[-1] == "-e ."
    assert names(lines[:-1]) == declared


def test_environment_names_the_same_packages_and_ends_with_the_package_itself(declared: dict[str, str]):
    text = (paths.ROOT / "environment.yml").read_text()
    lines = re.findall(r"^      - (.*)$", text, re.MULTILINE)
    assert lines[-1] == "-e ."
    assert names(lines[:-1]) == declared


def test_every_dependency_gives_its_reason():
    block = (paths.ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("\n]")[0]
    assert all(re.search(r"# \S", line) for line in block.strip().splitlines())


def test_constraints_pin_every_package(declared: dict[str, str]):
    lines = [line for line in (paths.ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    assert all("==" in line for line in lines)
    assert declared.keys() <= names(lines).keys()


def test_no_file_in_git_names_a_place_of_one_machine_or_is_a_data_set():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [paths.ROOT / name for name in listed.stdout.split("\0") if name]
    home = re.compile(r"(?<![\w/.])/(home|root|work|Users)/\w")
    for file in files:
        assert not {"MNIST", "FashionMNIST", "cifar-10-batches-py"} & set(file.parts), file
        if file.suffix in {".py", ".md", ".ipynb", ".toml", ".yml", ".txt", ".cff", ""}:
            assert not home.search(file.read_text(errors="replace")), file


def test_the_readme_names_every_command():
    from deepnets_utils.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    readme = (paths.ROOT / "README.md").read_text()
    assert commands == {"report", "plan", "train", "status", "new", "list", "data", "publish"}
    assert not [command for command in commands if f"deepnets {command}" not in readme]


FOLDERS = ("runs", "data", "models", "training", "sweeps", "results", "reports", "study", "cli")


def imported(module: Path) -> set[str]:
    """Return what a module of the package imports of it, wherever it does: at its head, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_run_one_way_along_the_folders():
    package = paths.ROOT / "deepnets_utils"
    files = [path for path in package.rglob("*.py") if path.parent != package or path.stem != "__init__"]
    modules = {".".join(p.relative_to(paths.ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}
    graph = {module: imported(path) & modules.keys() - {module} for module, path in modules.items()}
    rank = {module: FOLDERS.index(module.split(".")[1]) for module in modules}
    against = [(module, name) for module, names in graph.items() for name in names if rank[name] > rank[module]]
    assert not against
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    outside = {name.split(".")[0] for module in modules.values() for name in imported(module)}
    assert not outside & {"benchmarks", "tools", "tests"}
