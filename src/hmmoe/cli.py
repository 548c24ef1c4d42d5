"""The command line: hmmoe train | eval | predict | inspect | compare | robustness | data.

Imports happen in use.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Fine-tune frozen encoders with HMMoE, and compare it with other methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(
    help="Bring official data sets into the form that training reads.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

# what an interrupted command says
GO_ON = {"train": "; go on with --resume"} | dict.fromkeys(
    ("compare", "robustness", "data_prepare"), "; the same command goes on where it was"
)

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Recipe keys to change.")]
RunsAtOnce = Annotated[int, typer.Option("--jobs", help="Runs at the same time.")]
ThreadsPerRun = Annotated[int, typer.Option("--threads", help="Processor threads per run.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


def _plain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the user can mend is said in one sentence, with exit code 2; `--debug` shows the traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            print("interrupted" + GO_ON.get(command.__name__, ""), file=sys.stderr)
            raise typer.Exit(130) from None
        except (ValueError, OSError, FloatingPointError) as error:
            if kwargs.get("debug"):
                raise
            print(f"error: {_sentence(error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except ImportError as error:
            if kwargs.get("debug"):
                raise
            missing = isinstance(error, ModuleNotFoundError) and error.name
            mend = f"this needs {error.name}; pip install 'hmmoe[data,report]'" if missing else error
            print(f"error: {mend}", file=sys.stderr)
            raise typer.Exit(2) from None

    return wrapped


def _sentence(error: Exception) -> str:
    """An error's own words, also where it comes from a loading process, wrapped in that one's traceback."""
    text = str(error)
    if "\nOriginal Traceback" in text:
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text


def _print_keys(wanted: bool) -> None:
    """All recipe keys and the options of every method, from the help beside each field."""
    if not wanted:
        return
    from rich.console import Console
    from rich.table import Table

    from hmmoe.engine.recipe import Recipe
    from hmmoe.methods import METHODS
    from hmmoe.options import describe

    view = Table("key", "default", "what it is")
    for row in describe(Recipe):
        view.add_row(*row)
    for name, method in METHODS.items():
        view.add_section()
        for key, default, help in describe(method, "method"):
            view.add_row(key, default, f"{name}: {help}")
    Console().print(view)
    raise typer.Exit


@app.command()
@_plain_errors
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name> if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run folder that exists.")] = False,
    keys: Annotated[
        bool,
        typer.Option("--keys", is_eager=True, callback=_print_keys, help="Print all recipe keys and stop."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a recipe: adapter, metrics.json and report.html go to runs/<name>/."""
    from hmmoe.engine.progress import Display
    from hmmoe.engine.recipe import Recipe
    from hmmoe.engine.train import train as run_training

    _quiet()
    loaded = Recipe.load(recipe, overrides or ())
    folder = out or Path("runs") / loaded.name
    with Display() as display:
        metrics = run_training(loaded, folder, resume=resume, report=display.row(loaded.name))
    _print_metrics(metrics)
    print(f"report: {folder / 'report.html'}")


@app.command(name="eval")
@_plain_errors
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="Which rows: train, validation or test.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    result: Annotated[
        Path | None, typer.Option(help="Folder for the predictions in the data set's official form.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="STREAM", help="A stream that the rows shall lack.")
    ] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=LEVEL", help="Noise in a stream; 1 is as much noise as signal."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure a finished run on a split, as it is or with streams missing or noisy."""
    import json

    from hmmoe.engine.evaluate import evaluate as measure
    from hmmoe.engine.evaluate import write_result
    from hmmoe.engine.progress import Display

    _quiet()
    with Display() as display:
        report = display.row(f"{run.name} {split}")
        found = measure(run, split, report, without=without or (), noise=_levels(noise or ()))
    files = [] if result is None else write_result(found, split, result)
    if as_json:
        print(json.dumps(found.metrics))
        return
    for name, value in found.metrics.items():
        print(f"{split} {name}: {value:.4g}")
    for file in files:
        print(f"predictions: {file}")


@app.command()
@_plain_errors
def predict(
    run: Run,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="STREAM=INPUT…", help='e.g. image=photo.png text="what colour is it?"'),
    ],
    debug: Debug = False,
) -> None:
    """Ask a finished run about your own inputs: a file for an image, a video or a sound, words for text."""
    from hmmoe.engine.predict import predict as ask

    _quiet()
    print(ask(run, inputs))


@app.command()
@_plain_errors
def inspect(run: Run, debug: Debug = False) -> None:
    """Print what a finished run consists of: parameters by part, fusion points, mean routing."""
    from rich.console import Console

    from hmmoe.engine.inspect import describe_run

    console = Console()
    for part in describe_run(run):
        console.print(part, highlight=False)


@app.command()
@_plain_errors
def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = "frozen,lora,hmmoe",
    variants: Annotated[
        bool, typer.Option("--variants", help="All variants that the recipe names, too.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Runs per method.")] = 3,
    budget: Annotated[
        float | None, typer.Option(help="Trainable share of every method with adapters.")
    ] = None,
    tune: Annotated[int, typer.Option(help="Trials per method, of learning rates, on validation.")] = 1,
    jobs: RunsAtOnce = 2,
    threads: ThreadsPerRun = 1,
    folder: Annotated[
        Path | None, typer.Option(help="Where the runs go; runs/<name>-compare if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write result and page here too: FILE.json.")] = None,
    debug: Debug = False,
) -> None:
    """Train several methods alike and print the table. What is done already is not done again."""
    import shlex

    from rich.console import Console

    from hmmoe.engine.compare import compare as run_comparison
    from hmmoe.engine.progress import Display
    from hmmoe.engine.recipe import Recipe
    from hmmoe.engine.result import table

    loaded = Recipe.load(recipe, overrides or ())
    folder = folder or Path("runs") / f"{loaded.name}-compare"
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if variants:
        names += [name for name in loaded.variants if name not in names]
    with Display() as display:
        result = run_comparison(
            loaded,
            names,
            seeds=seeds,
            folder=folder,
            budget=budget,
            tune=tune,
            workers=jobs,
            threads=threads,
            display=display,
            command=shlex.join(["hmmoe", *sys.argv[1:]]),
            out=out,
        )
    Console().print(table(result))
    written = out or folder / "result.json"
    print(
        f"result: {written}, as a page: {written.with_suffix('.html')}, of each run: {folder}/*/report.html"
    )


Jobs = Annotated[int | None, typer.Option(help="Processes that decode; one per core if not given.")]


@data_app.command(name="prepare")
@_plain_errors
def data_prepare(
    name: Annotated[str, typer.Argument(metavar="ave|llp|…", help="The data set.")],
    raw: Annotated[Path, typer.Option(help="Folder with the official videos and annotation files.")],
    out: Annotated[Path, typer.Option(help="Folder for pictures and sound; may be of an earlier call.")],
    jobs: Jobs = None,
    debug: Debug = False,
) -> None:
    """Decode official videos once, to pictures and sound. What is done already is not done again."""
    from hmmoe.data.prepare import data_set, prepare

    _report_data(lambda tell: prepare(data_set(name), raw, out, workers=_workers(jobs), tell=tell), name)
    print(f"prepared: {out}, each clip's state: {out / 'prepared.jsonl'}")


@data_app.command(name="check")
@_plain_errors
def data_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A prepared folder, or an official one.")],
    jobs: Jobs = None,
    debug: Debug = False,
) -> None:
    """Decode all pictures, masks and sounds of a folder and count them; exit code 1 if any is broken."""
    from hmmoe.data.prepare import BROKEN, check, recognise

    data = recognise(folder)
    report = _report_data(lambda tell: check(data, folder, workers=_workers(jobs), tell=tell), data.name)
    if report.names(BROKEN):
        raise typer.Exit(1)


@data_app.command(name="shard")
@_plain_errors
def data_shard(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder for the shards, to be copied far away.")] = Path("shards"),
    jobs: Jobs = None,
    debug: Debug = False,
) -> None:
    """Write a recipe's rows as tar shards; train on them with task.shards=FOLDER-OR-ADDRESS."""
    from hmmoe.data.shards import write_shards
    from hmmoe.engine.assemble import make_task
    from hmmoe.engine.progress import Display
    from hmmoe.engine.recipe import Recipe
    from hmmoe.tasks.base import SPLITS

    _quiet()
    task = make_task(Recipe.load(recipe, overrides or ()))
    with Display() as display:
        for split in SPLITS:
            rows = task.dataset(split)
            skipped = write_shards(rows, out, split, workers=_workers(jobs), tell=display.row(split))
            display.say(f"{split}: {len(rows) - len(skipped)} rows, {len(skipped)} left out")
            for why in skipped:
                display.say(f"  {why}")
    print(f"shards: {out}")


def _workers(jobs: int | None) -> int:
    import os

    if jobs is not None and jobs < 0:
        raise ValueError(f"jobs must be at least 0, got {jobs}")
    return (os.cpu_count() or 1) if jobs is None else jobs


def _report_data(work: Callable[[Callable[[dict[str, Any]], None]], Any], name: str) -> Any:
    """Do the work under a progress bar and print what it reports."""
    from rich.console import Console

    from hmmoe.data.prepare import tables
    from hmmoe.engine.progress import Display

    with Display() as display:
        report = work(display.row(name))
    console = Console()
    for view in tables(report):
        console.print(view, highlight=False)
    return report


@app.command()
@_plain_errors
def robustness(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished comparison.")],
    levels: Annotated[str, typer.Option(help="Levels of noise; 1 is as much noise as signal.")] = "0.5,1,2",
    rows: Annotated[int | None, typer.Option(help="Test rows, a fixed draw; all if not given.")] = None,
    jobs: RunsAtOnce = 2,
    threads: ThreadsPerRun = 1,
    out: Annotated[Path | None, typer.Option(help="Write the result here too: FILE.json.")] = None,
    debug: Debug = False,
) -> None:
    """Test a comparison's runs with a stream missing or noisy. What is known is not done again."""
    import shlex

    from rich.console import Console

    from hmmoe.engine.progress import Display
    from hmmoe.engine.robustness import robustness as measure
    from hmmoe.engine.robustness import table

    _quiet()
    chosen = [_number(level, "levels") for level in levels.split(",")]
    command = shlex.join(["hmmoe", *sys.argv[1:]])
    with Display() as display:
        result = measure(
            folder,
            levels=chosen,
            limit=rows,
            workers=jobs,
            threads=threads,
            display=display,
            command=command,
            out=out,
        )
    Console().print(table(result))
    print(f"result: {out or folder / 'robustness.json'}")


def _levels(pairs: Sequence[str]) -> dict[str, float]:
    """`audio=0.5` to {"audio": 0.5}."""
    found = {}
    for pair in pairs:
        stream, equals, level = pair.partition("=")
        if not equals:
            raise ValueError(f"noise {pair!r} is not of the form stream=level, e.g. audio=0.5")
        found[stream] = _number(level, f"noise in {stream}")
    return found


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number, got {text!r}") from None


def _print_metrics(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    parts = metrics["parameters"]
    view = Table(show_header=False, box=None)
    for split in ("validation", "test"):
        for name, value in metrics[split].items():
            view.add_row(f"{split} {name}", f"{value:.4g}")
    view.add_row(
        "adapter", f"{parts['adapter']:,} parameters, {parts['share']:.2%} of backbones and adapters"
    )
    view.add_row("head", f"{parts['head']:,} parameters")
    view.add_row("time", f"{metrics['seconds']:.0f} s, {metrics['rows_per_second']:.0f} rows/s")
    view.add_row("peak memory", f"{metrics['peak_mib']:.0f} MiB")
    Console().print(view, highlight=False)


def _quiet() -> None:
    """Silence what libraries say on import and at start; our own errors and bars say what matters."""
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    app()
