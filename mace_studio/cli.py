"""`python -m mace_studio erase|masks|compose|compare|inspect|evaluate|export|study`: the use cases without a page."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from mace_studio import masks
from mace_studio.errors import FileError, StudioError
from mace_studio.evaluation.study import SEARCH_SEED, STUDIES, cases, markdown, run
from mace_studio.export.formats import ENERGY, FORMATS, ExportRequest
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import library, outputs
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.studio import Studio

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 after an error that is told in a sentence, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except StudioError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mace_studio", description="Mass concept erasure.")
    commands = parser.add_subparsers(required=True, metavar="erase|masks|compose|compare|inspect|evaluate|export|study")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--model", help="folder, hub id or .safetensors file; the built-in miniature when left out")
    shared.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    shared.add_argument("--dtype", default="auto", help="auto, float32, float16, bfloat16")
    shared.add_argument("--low-memory", action="store_true", help="for small graphics cards; slower")
    shared.add_argument("--captions", type=Path, help="general captions: text, or MS-COCO's captions_*.json")
    written = argparse.ArgumentParser(add_help=False, parents=[shared])
    written.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")

    erase = commands.add_parser("erase", parents=[written], help="run a recipe")
    erase.add_argument("recipe", type=Path, metavar="RECIPE.json")
    erase.add_argument("--estimate", action="store_true", help="say what it takes, and do not run it")
    erase.add_argument("--masks", type=Path, metavar="DIR", help="PNG files as the command masks writes them")
    erase.set_defaults(run=_erase)

    shown = commands.add_parser("masks", parents=[written], help="the training images of a recipe and their masks")
    shown.add_argument("recipe", type=Path, metavar="RECIPE.json")
    shown.set_defaults(run=_masks)

    drawn = argparse.ArgumentParser(add_help=False, parents=[written])
    drawn.add_argument("--steps", type=int, help="20 when left out, fewer with a distilled model")
    drawn.add_argument("--guidance", type=float, help="7.5 when left out, 1 with a distilled model")
    drawn.add_argument("--negative", default="", help="what to steer away from")
    drawn.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="the model's own when left out")

    compare = commands.add_parser("compare", parents=[drawn], help="draw before and after an erasure")
    compare.add_argument("erasure", type=Path, metavar="ERASURE.safetensors")
    compare.add_argument("--prompt", action="append", required=True, help="may be given several times")
    compare.add_argument("--seed", action="append", type=int, help="may be given several times; 0 when left out")
    compare.set_defaults(run=_compare)

    inspect = commands.add_parser("inspect", parents=[drawn], help="see what the model attends to, before and after")
    inspect.add_argument("erasure", type=Path, nargs="?", metavar="ERASURE.safetensors", help="before alone without it")
    inspect.add_argument("--prompt", required=True)
    inspect.add_argument("--seed", type=int, default=0)
    inspect.add_argument("--phrase", action="append", default=[], help="what counts as one word, beside the concepts")
    inspect.add_argument("--residual", action="store_true", help="replace the concept's words by the end token instead")
    inspect.set_defaults(run=_inspect)

    evaluate = commands.add_parser("evaluate", parents=[written], help="measure what is gone and what has suffered")
    either = "ERASURE.safetensors|RECIPE.json"
    evaluate.add_argument("erasure", type=Path, nargs="+", metavar=either, help="a recipe is run first")
    evaluate.add_argument("--plan", default="quick", help="quick: at least 8 images a word; full: at least 56")
    evaluate.add_argument("--judge", help="hub id or folder of a CLIP model; the model's own judge when left out")
    evaluate.set_defaults(run=_evaluate)

    _add_export(commands.add_parser("export", parents=[shared], help="write an erasure for other programs"))

    _add_compose(
        commands.add_parser("compose", parents=[written], help="put erasures together, add or take out concepts")
    )
    _add_study(commands.add_parser("study", help="a table over many erasures of the built-in model"))
    return parser


def _add_study(study: argparse.ArgumentParser) -> None:
    study.add_argument("study", choices=list(STUDIES))
    study.add_argument("--plan", default="quick", help="quick: at least 8 images a word; full: at least 56")
    study.add_argument("--preset", default="cat", help="what a search varies, such as cat, people-5 or artists-5")
    study.add_argument("--out", type=Path, required=True, metavar="DIR", help="where erasures, images and tables go")
    study.set_defaults(run=_study)


def _add_compose(compose: argparse.ArgumentParser) -> None:
    compose.add_argument("erasures", type=Path, nargs="+", metavar="ERASURE.safetensors", help="settings: the first's")
    compose.add_argument("--remove", nargs="+", default=[], metavar="PHRASE", help="what is erased no longer")
    compose.add_argument("--add", type=Path, metavar="RECIPE.json", help="its concepts are trained and erased as well")
    compose.add_argument("--name", default="", help="what to call the result; made of its concepts when left out")
    compose.set_defaults(run=_compose)


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("erasure", type=Path, metavar="ERASURE.safetensors")
    export.add_argument(
        "--format", choices=FORMATS, required=True, help="; ".join(f"{k}: {v}" for k, v in FORMATS.items())
    )
    export.add_argument("--out", type=Path, required=True, metavar="PATH", help="a folder for diffusers, else a file")
    share = export.add_mutually_exclusive_group()
    share.add_argument("--rank", type=int, help="of a lora, the same in all layers")
    share.add_argument(
        "--energy", type=float, help=f"share of the difference that a lora keeps; {ENERGY} when left out"
    )
    export.add_argument(
        "--pair", type=Path, action="append", default=[], metavar="PNG", help="of compare, for the card"
    )
    export.add_argument("--report", type=Path, metavar="report.json", help="of evaluate, for the card")
    export.add_argument("--overwrite", action="store_true", help="replace what is there")
    export.set_defaults(run=_export)


def _erase(options: argparse.Namespace) -> int:
    studio, recipe = _studio(options, options.out), _recipe(options.recipe)
    given = masks.read(options.masks, recipe.check()) if options.masks else {}
    job = studio.measure() if options.estimate else studio.erase(recipe, given)
    if not _finished(job):
        return INTERRUPTED
    print(studio.estimate(recipe.check()).summary() if options.estimate else job.result.path)
    return 0


def _compose(options: argparse.Namespace) -> int:
    studio = _studio(options, options.out)
    entries = [library.read(path) for path in options.erasures]
    job = studio.compose(entries, options.remove, _recipe(options.add) if options.add else None, options.name)
    if not _finished(job):
        return INTERRUPTED
    for warning in job.result.warnings:
        print(warning)
    print(job.result.path)
    return 0


def _masks(options: argparse.Namespace) -> int:
    job = _studio(options, options.out).masks(_recipe(options.recipe))
    if not _finished(job):
        return INTERRUPTED
    for path in masks.write(job.result, options.out):
        print(path)
    return 0


def _compare(options: argparse.Namespace) -> int:
    studio = _studio(options, options.erasure.parent)
    name = studio.entry(options.erasure.stem).name
    job = studio.compare(name, _drawing(studio, options, options.prompt, options.seed or [0]))
    if not _finished(job):
        return INTERRUPTED
    for pair in job.result:
        print(outputs.pair(pair, options.out), f"mean pixel change {pair.change:.1f}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    folder = options.erasure.parent if options.erasure else options.out
    studio = _studio(options, folder)
    name = options.erasure and studio.entry(options.erasure.stem).name
    drawing = _drawing(studio, options, [options.prompt], [options.seed])
    job = studio.residual(name or "", drawing) if options.residual else studio.inspect(name, drawing, options.phrase)
    if not _finished(job):
        return INTERRUPTED
    for path in outputs.inspection(job.result, options.out):
        print(path)
    for name, drawn in job.result.runs.items():
        for phrase, share in drawn.presence.items():
            print(f"{name}: the judge sees “{phrase}” with a probability of {share:.1%}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    folders = {options.out if path.suffix == ".json" else path.parent for path in options.erasure}
    if len(folders) > 1:
        raise FileError("What is evaluated together must lie in one folder; recipes are run into that of --out.")
    studio, names = _studio(options, folders.pop()), []
    _load(studio)
    for path in options.erasure:
        if path.suffix == ".json":
            job = studio.erase(_recipe(path))
            if not _finished(job):
                return INTERRUPTED
        names.append(job.result.name if path.suffix == ".json" else path.stem)
        print(f"{names[-1]}: {studio.plan(names[-1], options.plan).summary()}")
    job = studio.evaluate(names, options.plan, options.judge)
    if not _finished(job):
        return INTERRUPTED
    files = outputs.evaluation(job.result, options.out)
    print(files[0].read_text(encoding="utf-8"))
    for file in files:
        print(file)
    return 0


def _study(options: argparse.Namespace) -> int:
    studio = Studio(output=options.out)
    searching = options.study == "search"
    rows = cases(options.study, options.preset)
    outcomes = list(run(studio, rows, options.plan, SEARCH_SEED if searching else None, _finished))
    if len(outcomes) < len(rows):
        return INTERRUPTED
    title = f"Study: {options.study}{f', {options.preset}' if searching else ''}, {options.plan} plan"
    text = markdown(title, outcomes, averaged=options.study == "objects")
    path = options.out / f"{options.study}{f'-{options.preset}' if searching else ''}-{options.plan}.md"
    measured = [(outcome.report, outcome.seconds) for outcome in outcomes if outcome.report is not None]
    reports, seconds = [report for report, _ in measured], [took for _, took in measured]
    print(text)
    for file in outputs.study(text, reports, seconds, path):
        print(file)
    return 0


def _recipe(path: Path) -> Recipe:
    try:
        return Recipe.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as text: {error}") from error


def _studio(options: argparse.Namespace, folder: Path) -> Studio:
    return Studio(options.model, options.device, options.dtype, folder, options.low_memory, options.captions)


def _export(options: argparse.Namespace) -> int:
    studio = _studio(options, options.erasure.parent)
    pairs = tuple(options.pair)
    packing = ExportRequest(
        options.format, options.out, options.rank, options.energy, options.overwrite, pairs, options.report
    )
    job = studio.export(options.erasure.stem, packing)
    if not _finished(job):
        return INTERRUPTED
    for layer, (rank, share) in job.result.residuals.items():
        print(f"{layer}: rank {rank}, {share:.2%} left out")
    print(job.result.path, f"{job.result.size / 1e6:.1f} MB")
    return 0


def _drawing(studio: Studio, options: argparse.Namespace, prompts: Sequence[str], seeds: Sequence[int]) -> ImageRequest:
    size = tuple(options.size) if options.size else None
    drawing = ImageRequest(tuple(prompts), tuple(seeds), negative=options.negative, size=size)
    chosen = {name: getattr(options, name) for name in ("steps", "guidance") if getattr(options, name) is not None}
    if len(chosen) < 2:  # the rest depends on the kind of model
        _load(studio)
    return replace(studio.with_defaults(drawing), **chosen)


def _load(studio: Studio) -> None:
    if not _finished(studio.load()):
        raise KeyboardInterrupt


def _finished(job: Job) -> bool:
    """Show the job's progress until it is over; False after Ctrl-C, when the model is free again."""

    def on_interrupt(*_: object) -> None:
        # An exception could strike anywhere, also while a lock is held; asking the job to stop cannot.
        signal.signal(signal.SIGINT, usual)
        job.cancel()

    usual = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{remaining}", desc=job.title) as bar:
            for event in job.watch():
                if event is not None:
                    bar.set_description(f"{event.stage} {event.concept}".strip())
                    bar.update(100 * event.fraction - bar.n)
    finally:
        signal.signal(signal.SIGINT, usual)
    job.wait()
    return job.state == DONE
