"""A notebook's parameters: read from its tagged cell, checked before anything runs. Imports no torch.

The cell holds lines `name: type = literal  # help`, type one of str, int, float, bool, list. Choices stand at
the start of the help in braces, as in `precision: str = "float32"  # {float32, bfloat16} as in the tables, or mixed`,
and so do a number's limits: `rotation: float = 15.0  # {0..180} degrees`. Both hold for each item of a list. 0 and ""
mean "as the profile says". A number without limits is from 0 to 1,000. papermill's own reader of this cell was tried:
to import it takes five seconds, and choices and limits would still have to be read from its help.
"""

import ast
import contextlib
import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepnets_utils.reports.notebooks import notebook_path, read_notebook, study_names
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import ParameterError

TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
STANDARD = ("profile", "train", "data", "device", "workers", "yes")  # of every notebook; others are settings
PROFILES = ("smoke", "quick", "overnight", "paper")
LARGE = PROFILES[2:]  # profiles that train on real data alone and share their claims' verdicts
NEVER = {
    ("smoke", "real"): "which is to run the same everywhere: auto or embedded",
    **{(profile, "embedded"): "which trains on the real data only: auto or real" for profile in LARGE},
}
MOST = 1_000  # of a number without limits: so many runs a cell take seconds to list
LABEL_LENGTH = 80  # of a folder's name, in characters


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell.

    choices is empty where any value of the type within the limits is allowed; limits are None where none are declared.
    """

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None

    def check(self, value: Any) -> Any:
        """Return `value` as the declared type (int to float, a list's text to items); raises ParameterError.

        A list's items may also come as a text with commas between them or as one bare value, as papermill's -p gives
        them. They are matched with the choices by their text: 1 is "1", None is "None".
        """
        several = self.type == "list"
        if self.type == "float" and type(value) is int:
            value = float(value)
        if several and type(value) in (str, int, float, bool, type(None)):
            value = _items(str(value))
        if several and type(value) is list and self.choices:
            value = [str(item) for item in value]
        if type(value) is not TYPES[self.type]:
            raise ParameterError(f"{self.name} must be {self.type}, not {value!r} ({type(value).__name__})")
        if several and (twice := [item for item in value if value.count(item) > 1]):
            raise ParameterError(f"{self.name} must not name anything twice; {twice[0]!r} is there {len(twice)} times")
        two = ",".join(self.choices[:2] or [f"{limit:.12g}" for limit in self.limits or ()])
        calls = f" (write -p '{self.name}={two}', for papermill -p {self.name} '{two}')" if several else ""
        low, high = self.limits or (0, MOST)
        for item in value if several else [value]:
            if self.choices and str(item) not in self.choices:
                raise ParameterError(f"{self.name} must be one of {', '.join(self.choices)}; it is {item!r}{calls}")
            inside = type(item) in (int, float) and low <= item <= high
            if (self.limits or self.type in ("int", "float")) and not inside:
                raise ParameterError(f"{self.name} must be from {low:.12g} to {high:.12g}; it is {item!r}{calls}")
        return value

    def allowed(self) -> str:
        """Return choices or limits in braces, as the parameters cell has them, "" where there are none."""
        if self.limits:
            return "{{{:.12g}..{:.12g}}}".format(*self.limits)
        return f"{{{', '.join(self.choices)}}}" if self.choices else ""

    def parse(self, text: str) -> Any:
        """Return the value that a command line's `name=text` means; raises ParameterError."""
        if self.type in ("str", "list"):
            return self.check(text)
        return self.check(_literal({"true": "True", "false": "False"}.get(text.lower(), text)))


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name and in order.

    Raises ParameterError when the notebook cannot be read, has no cell tagged "parameters", or a line that is not of
    the form.
    """
    if not (cells := read_notebook(notebook)["cells"]):
        raise ParameterError(f"{notebook.name} is no notebook with cells; is the file damaged?")
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(sources) != 1:
        raise ParameterError(f"{notebook.name} has {len(sources)} cells tagged 'parameters'; it needs one")
    try:
        lines = ast.parse(sources[0]).body
    except SyntaxError as error:
        raise ParameterError(f"{notebook.name}, parameters cell: {error}") from None
    ends = [sources[0].splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode() for node in lines]
    found = [
        _parameter(node, end.lstrip(" #"), f"{notebook.name}, parameters cell, line {node.lineno}")
        for node, end in zip(lines, ends, strict=True)
    ]
    return {parameter.name: parameter for parameter in found}


def _parameter(node: ast.stmt, comment: str, where: str) -> Parameter:
    """Return the parameter that a line of the cell declares; raises ParameterError, with `where`, for another form."""
    try:
        name, kind, default = node.target.id, node.annotation.id, ast.literal_eval(node.value)
        TYPES[kind]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ParameterError(
            f"{where}: write `name: type = literal  # help` with a type of {', '.join(TYPES)}"
        ) from None
    braces, said = re.match(r"(?:\{(.*?)\})?\s*(.*)", comment).groups()
    choices, limits = (), None
    if ".." in (braces or ""):
        try:
            low, high = map(float, braces.split(".."))
            if kind in ("str", "bool"):
                raise ValueError
        except ValueError:
            raise ParameterError(
                f"{where}: limits are two numbers as in {{0..180}}, of int, float or list; it is {{{braces}}} of {kind}"
            ) from None
        limits = low, high
    elif braces:
        choices = tuple(choice.strip() for choice in braces.split(","))
    parameter = Parameter(name, kind, default, said, choices, limits)
    try:
        parameter.check(default)
    except ParameterError as error:
        raise ParameterError(f"{where}, its default: {error}") from None
    return parameter


def check_parameters(declared: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return every declared parameter's value, given or default.

    Raises ParameterError for an unknown name, an impossible value, and data that a profile never uses.
    """
    for name in values:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ParameterError(f"no parameter is called {name!r}{hint}; there are {', '.join(declared)}")
    checked = {name: item.check(values.get(name, item.default)) for name, item in declared.items()}
    if (use := (checked.get("profile"), checked.get("data"))) in NEVER:
        raise ParameterError(f"data must not be {use[1]} in profile {use[0]}, {NEVER[use]}")
    return checked


def injected(namespace: Mapping[str, Any], declared: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the names and values of the parameters cell as it was last run, and of the one that papermill put in.

    declared: what the notebook's file declares; a name that only these cells have is a misspelt one. The first gives
    a declared name its type, the other has papermill's comment. Raises ParameterError where cells ran, the first not.
    """
    found: dict[bool, set[str]] = {}
    for source in namespace.get("In", []):
        with contextlib.suppress(SyntaxError):
            lines = ast.parse(source).body
            typed = {ast.unparse(line.target) for line in lines if isinstance(line, ast.AnnAssign)}
            if (parameters := bool(typed & declared.keys())) or re.search("^# Parameters$", source, re.M):
                found[parameters] = typed.union(
                    ast.unparse(target) for line in lines if isinstance(line, ast.Assign) for target in line.targets
                )
    if any(namespace.get("In", [])) and True not in found:
        raise ParameterError("no cell with lines `name: type = literal` was run: run the one tagged 'parameters'")
    return {name: namespace[name] for name in set().union(*found.values()) if name in namespace}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _items(text: str) -> list[Any]:
    """Return the items of a text: a Python literal, or commas between them, in brackets or not."""
    if type(value := _literal(text)) is list:
        return value
    return [_literal(item.strip()) for item in re.sub(r"^\[(.*)\]$", r"\1", text.strip()).split(",")]


def report_folder(values: Mapping[str, Any], declared: Mapping[str, Parameter]) -> Path:
    """Return where a notebook reports: reports/<profile>, and with other settings than the profile's beside it.

    values: of all declared parameters. The folder names what is overridden, as in quick+epochs=5,seeds=3, and different
    overrides have different folders. Embedded data are an override, too: they never replace a page of real data.
    """
    changed = [name for name in declared if name not in STANDARD and values[name] != declared[name].default]
    if values.get("data") == "embedded":
        changed.append("data")
    items = {name: values[name] if isinstance(values[name], list) else [values[name]] for name in sorted(changed)}
    text = ",".join(f"{name}={'_'.join(map(str, of))}" for name, of in items.items())
    label = re.sub(r"[^A-Za-z0-9._=,-]", "_", text)
    if label != text or len(label) > LABEL_LENGTH or any("_" in str(item) for of in items.values() for item in of):
        digest = hashlib.sha256(repr(list(items.items())).encode()).hexdigest()
        label = f"{label[: LABEL_LENGTH - 9]}-{digest[:8]}"
    return paths.output_root() / "reports" / "+".join(filter(None, (values["profile"], label)))


def given_values(texts: Sequence[str]) -> dict[str, str]:
    """Return what `name=value` texts say, by name; raises ParameterError for another form, and for two values."""
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"-p takes NAME=VALUE, not {text!r}")
        if given.setdefault(name, value) != value:
            raise ParameterError(f"{name} is given twice, as {given[name]} and as {value}")
    return given


def parse_values(study: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that texts give a study's parameters; raises ParameterError."""
    declared = read_parameters(notebook_path(study))
    try:
        values = {name: declared[name].parse(text) if name in declared else text for name, text in given.items()}
        check_parameters(declared, values)
    except ParameterError as error:
        lacking = given.keys() - declared.keys()
        others = [other for other in study_names() if lacking & read_parameters(notebook_path(other)).keys()]
        hint = f" ({', '.join(others)} has it: name that study)" if others else ""
        raise ParameterError(f"{study}: {error}{hint}") from None
    return values
