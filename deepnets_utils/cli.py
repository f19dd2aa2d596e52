"""The command line: `deepnets report | plan | train | status | new | list | data | publish`.

Imports nothing heavy before a command needs it: help takes no second. What the user can put right is one line on
stderr and exit code 2, before anything runs; what fails while running gives exit code 1.
"""

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deepnets_utils.data import inventory
from deepnets_utils.reports.notebooks import new_notebook, notebook_path, read_title, study_names
from deepnets_utils.reports.parameters import LARGE, PROFILES, given_values, parse_values, read_parameters
from deepnets_utils.reports.pdf import find_browser, write_pdf
from deepnets_utils.runs import paths
from deepnets_utils.runs.errors import DataError, ParameterError
from deepnets_utils.runs.run import Result
from deepnets_utils.runs.store import Store
from deepnets_utils.sweeps.driver import TrainingFailed
from deepnets_utils.sweeps.lists import progress, read_runs
from deepnets_utils.sweeps.lists import publish as publish_runs
from deepnets_utils.sweeps.sweep import SweepTooLong, in_rounds, sweep
from deepnets_utils.sweeps.workers import engine, resolve, use_cluster
from deepnets_utils.training.signals import TERMINATED

ENDED = {130: "interrupted", TERMINATED: "ended by SIGTERM"}  # 130: typer's exit code for Ctrl-C

app = typer.Typer(
    help="Do deep convolutional networks need to be deep and convolutional? The studies, from the command line.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Studies = Annotated[list[str] | None, typer.Argument(metavar="STUDY", help="Names or numbers; none means all.")]
Profile = Annotated[str, typer.Option(metavar="NAME", help="smoke, quick, overnight or paper.")]
Settings = Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="See `deepnets list`.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu or cuda.")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Runs at a time; 0: one a CPU, or one on cuda.")]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Train on a Dask cluster: tcp://host:8786.")]
Yes = Annotated[bool, typer.Option("--yes", help="Train although more than two hours are estimated.")]


def main() -> None:
    """Run the command line (entry point `deepnets`)."""
    warnings.formatwarning = lambda message, *_, **__: f"deepnets: {message}\n"
    try:
        app()
    except (ParameterError, SweepTooLong, TrainingFailed, DataError, OSError) as error:
        print(f"deepnets: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, (ParameterError, SweepTooLong)) else 1)
    except SystemExit as end:
        if end.code in ENDED:
            print(f"{ENDED[end.code]}: what was finished is stored, the same command does the rest", file=sys.stderr)
        raise


@app.command()
def report(
    studies: Studies = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="smoke, quick, overnight, paper; none: quick, and the large ones as stored."),
    ] = None,
    settings: Settings = None,
    device: Device = None,
    workers: Workers = None,
    train: Annotated[str | None, typer.Option(metavar="WHAT", help="missing, or never: show what is stored.")] = None,
    data: Annotated[str | None, typer.Option(metavar="WHICH", help="auto, real, or embedded: bundled digits.")] = None,
    dask: Dask = None,
    yes: Yes = False,
    hide_code: Annotated[bool, typer.Option("--hide-code", help="Pages without code, for handing out.")] = False,
    as_zip: Annotated[bool, typer.Option("--zip", help="Also pack pages, tables and figures of each profile.")] = False,
    as_pdf: Annotated[bool, typer.Option("--pdf", help="Also print each page; needs Chromium or Chrome.")] = False,
) -> None:
    """Run the notebooks, write pages and an index.

    What is missing is trained first; of overnight and paper the first run of every cell of all studies, then the
    second, and so on. Without --profile: quick, then overnight and paper from what is stored, without training.
    """
    options = dict(profile=profile, device=device, workers=workers, train=train, data=data, yes=yes or None)
    given = given_values([f"{name}={value}" for name, value in options.items() if value is not None] + (settings or []))
    browser = find_browser() if as_pdf else ""
    if dask:
        use_cluster(dask)
    if given.get("profile") in LARGE and given.get("train") != "never":
        outcomes = _make_large(given, studies, hide_code)
    else:
        groups = [given] if "profile" in given else [given | {"profile": "quick"}]
        if "profile" not in given and given.get("data") != "embedded":  # the large profiles have none
            groups += [given | {"profile": name, "train": "never"} for name in LARGE]
        outcomes = _make(groups, studies, hide_code)
    _hand_out(outcomes, as_zip, browser)
    raise typer.Exit(int(any(outcome.error for outcome in outcomes)))


@app.command()
def plan(studies: Studies = None, profile: Profile = "paper", settings: Settings = None) -> None:
    """Write the lists of runs, to train them elsewhere.

    A list is reports/<profile>/<study>.runs.jsonl; the page shows what is stored. Needs no data set and trains
    nothing: `deepnets train` does that, here or on another machine.
    """
    given = given_values([f"profile={profile}", *(settings or []), "train=never"])
    outcomes = _make([given], studies, hide_code=False)
    stored = list(Store().results())
    for outcome in outcomes:
        if not outcome.error:
            file = outcome.folder / f"{outcome.study}.runs.jsonl"
            print(f"{file}: {_progress(file, stored)}")
    raise typer.Exit(int(any(outcome.error for outcome in outcomes)))


@app.command()
def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Lists that `deepnets plan` wrote.")],
    device: Device = None,
    workers: Workers = None,
    dask: Dask = None,
    yes: Yes = False,
) -> None:
    """Train the runs of such lists, without Jupyter.

    What is stored is left out. Several machines that share one runs/ folder may work on one list.
    """
    from deepnets_utils.data import downloading

    if not (listed := [run for file in files for run in read_runs(file)]):
        raise ParameterError(f"no run is listed in {', '.join(map(str, files))}; `deepnets plan` writes such lists")
    runs = [run for run in listed if not run.local]
    if len(runs) < len(listed):
        print(f"{len(listed) - len(runs)} runs use something that only their notebook defines", file=sys.stderr)
    store = Store()
    if not (missing := [run for run in runs if store.get(run) is None]):
        print(f"all {len(runs)} runs are stored")
        return
    if dask:
        use_cluster(dask)
    else:  # said once here, and not by a worker for each run
        for dataset in sorted({run.dataset for run in missing}):
            downloading.provide(dataset)
    place = engine(*resolve(device or "auto", workers or 0))
    sweep(in_rounds(runs), store=store, yes=yes, title=", ".join(file.stem for file in files), **place)


@app.command()
def status(
    studies: Studies = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one.")] = None,
) -> None:
    """Show what is done and what is missing."""
    files = sorted((paths.output_root() / "reports").glob("*/*.runs.jsonl"))
    lists = {(file.parent.name, file.name.removesuffix(".runs.jsonl")): file for file in files}
    if profile and profile not in (known := sorted({*PROFILES, *(name for name, _ in lists)})):
        raise ParameterError(f"no profile is called {profile!r}; there are {', '.join(known)}")
    selected = _selected(studies)
    stored = list(Store().results())
    for (name, study), file in lists.items():
        if profile in (None, name) and (study in selected or not studies):
            try:
                text = _progress(file, stored)
            except ParameterError as error:
                text = f"cannot be read: {error}"
            made = datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "minutes")
            print(f"{name}  {study}: {text}; reported {made}")
    for name in [profile] if profile else PROFILES:
        if absent := [study for study in selected if (name, study) not in lists]:
            print(f"{name}  not reported or planned here: {', '.join(absent)}")
    print(f"{len({result.run.digest for result in stored})} finished runs are stored here or published")
    there = [name for name, folder in inventory.FOLDER.items() if (paths.data_root() / folder).is_dir()]
    print(f"data sets in {paths.data_root()}: {', '.join(there) or 'none'} (`deepnets data` checks them)")


@app.command()
def new(name: Annotated[str, typer.Argument(metavar="NAME", help="Two digits and a word: 09_my_question.")]) -> None:
    """Write a notebook for your own study: it runs as it stands, and is reported and tested like the others."""
    print(new_notebook(name))


@app.command("list")
def list_studies(studies: Studies = None) -> None:
    """Show the studies and their parameters."""
    for study in _selected(studies):
        print(f"{study}  {read_title(notebook_path(study))}")
        for item in read_parameters(notebook_path(study)).values():
            declared = f"{item.name}: {item.type} = {json.dumps(item.default)} {item.allowed()}".rstrip()
            print(f"    {declared}  {item.help}".rstrip())


@app.command()
def data(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="None means all data sets.")] = None,
) -> None:
    """Check the data sets; unpack archives that lie there, download what is missing."""
    from deepnets_utils.data import downloading, loading

    for name in names or []:
        if name not in inventory.DATA_SETS:
            raise ParameterError(f"no data set is called {name!r}; there are {', '.join(inventory.DATA_SETS)}")
    failed = False
    for name in names or inventory.FILES:
        if (state := loading.check(name)) != "ready":
            print(f"{name}: {state}", file=sys.stderr, flush=True)
            try:
                downloading.download(name)
                state = "ready now"
            except DataError as error:
                state, failed = str(error), True
        print(state if state.startswith(f"{name}: ") else f"{name}: {state}", flush=True)
    raise typer.Exit(int(failed))


@app.command()
def publish(studies: Studies = None, profile: Profile = "paper") -> None:
    """Collect finished runs in data/records/."""
    if profile not in PROFILES:
        raise ParameterError(f"profile must be one of {', '.join(PROFILES)}; it is {profile!r}")
    folder = paths.output_root() / "reports" / profile
    files = {study: folder / f"{study}.runs.jsonl" for study in _selected(studies)}
    planned = {study: read_runs(file) for study, file in files.items() if studies or file.exists()}
    if not planned:
        raise ParameterError(f"{folder} has no list of runs; `deepnets plan --profile {profile}` writes them")
    for study, runs in planned.items():
        real = profile in LARGE
        print(publish_runs(study, profile, runs, real) if runs else f"{study} trains nothing of its own")


def _selected(studies: Sequence[str] | None) -> list[str]:
    named = dict.fromkeys(notebook_path(study).stem for study in studies or [])
    return list(named) or study_names()


def _make(groups: Sequence[Mapping[str, str]], studies: Sequence[str] | None, hide_code: bool) -> list[Any]:
    """Make the reports of studies, once with each group of values, after all of them are checked."""
    jobs = [(study, parse_values(study, given)) for given in groups for study in _selected(studies)]
    if any(values.get("device") == "cuda" for _, values in jobs):
        resolve("cuda", 0)
    # nbformat asks for all checkers of JSON formats; this one takes two seconds to import and no notebook needs it.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from deepnets_utils.reports.reporting import make_reports

    return make_reports(jobs, hide_code=hide_code)


def _make_large(given: Mapping[str, str], studies: Sequence[str] | None, hide_code: bool) -> list[Any]:
    """Make the reports of a large profile: all that is missing is planned, trained in rounds over all studies, shown.

    Raises SweepTooLong as `sweep` does, but for overnight, whose name says it; the pages are there then, as stored.
    """
    values = parse_values(_selected(studies)[0], given)
    planned = _make([given | {"train": "never"}], studies, hide_code)
    files = [outcome.folder / f"{outcome.study}.runs.jsonl" for outcome in planned if not outcome.error]
    store = Store()
    lacking = [run for file in files for run in read_runs(file) if store.get(run) is None]
    if not lacking:
        return planned
    from deepnets_utils.data import downloading

    missing = [run for run in lacking if not run.local]  # the others are the notebooks' to train
    place = engine(*resolve(values.get("device", "auto"), values.get("workers", 0)))
    yes = values.get("yes", False) or values["profile"] == "overnight"
    for name in sorted({run.dataset for run in missing} if "executor" not in place else ()):
        try:
            downloading.provide(name)
        except DataError as error:
            print(f"{error}\nNothing is trained on {name}.", file=sys.stderr)
            missing = [run for run in missing if run.dataset != name]
    sweep(in_rounds(missing), store=store, yes=yes, title=values["profile"], **place)
    return _make([given | {"yes": str(yes)}], studies, hide_code)


def _hand_out(outcomes: Sequence[Any], as_zip: bool, browser: str) -> None:
    """Say where the pages are, pack them and, with a browser ("" for none), print each."""
    from deepnets_utils.reports.reporting import write_zip

    for folder in dict.fromkeys(outcome.folder for outcome in outcomes):
        print(folder / "index.html")
        if as_zip:
            print(write_zip(folder))
    for outcome in outcomes:
        if browser and not outcome.error:
            print(write_pdf(outcome.folder / f"{outcome.study}.html", browser))


def _progress(file: Path, stored: Sequence[Result]) -> str:
    """Return in words how far the runs of a list are, and which will be listed only when these are stored."""
    from deepnets_utils.reports.summaries import read

    text = progress(read_runs(file), stored)
    summary = read(file.with_name(file.name.replace(".runs.jsonl", ".json")))
    later = summary.get("runs", {}).get("later", 0)
    return text + (f"; {later} more when these are stored: then plan again" if later else "")
