"""Times this package against PyTorch Lightning and a plain loop: `python -m benchmarks`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import bench
from deepnets_utils.reports.figures import rendered
from deepnets_utils.runs.errors import ParameterError
from deepnets_utils.runs.files import write_text, write_whole

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all that was found.")] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png or .svg.")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="Measurements of each network and way.")] = 5,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps an epoch; one epoch warms up, two are timed.")] = 100,
) -> None:
    """Time this package against PyTorch Lightning and a plain loop.

    All train the same networks on the same batches; exit code 1 when their losses differ. Leave the machine alone
    meanwhile.
    """
    try:
        if figure and figure.suffix not in (".png", ".svg"):
            raise ParameterError(f"--figure takes a .png or .svg file, not {figure}")
        found = bench.benchmark(rounds, steps)
    except ParameterError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(bench.table(found["rows"]).to_string(index=False))
    if json_file:
        write_text(json_file, json.dumps(found, indent=1) + "\n")
    if figure:
        picture = rendered(bench.draw(found["rows"]), figure.suffix[1:])
        write_whole(figure, lambda file: file.write(picture))
    for disagreement in (different := bench.disagreements(found["rows"])):
        print(f"benchmarks: {disagreement}", file=sys.stderr)
    raise typer.Exit(int(bool(different)))


if __name__ == "__main__":
    app()
