"""The command `mace-studio`: the page, and all that it does without it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mace_studio import masks, sources, surroundings, text_files
from mace_studio.errors import FileError, RecipeError, StudioError
from mace_studio.evaluation import methods_search, methods_study
from mace_studio.evaluation.plan import FIRST_SEED
from mace_studio.evaluation.study import SEARCH_SEED, Case, Outcome, cases, markdown, run, some
from mace_studio.exports.formats import FORMATS, ExportRequest
from mace_studio.parser import OUTPUT, command_parser
from mace_studio.paths import slug, unique_slug
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import library, lookup, result_files
from mace_studio.runtime.job_log import JobLog
from mace_studio.runtime.jobs import CANCELLED, Job, Worker
from mace_studio.runtime.machines import Machines
from mace_studio.runtime.perform import Place
from mace_studio.runtime.studio import Studio

INTERRUPTED = 130
WRITING = ("masks", "compare", "inspect", "evaluate", "study")  # what their work makes is written at its end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 after an error that is told in a sentence, or 130 after Ctrl-C."""
    surroundings.make_console_forgiving()
    options = command_parser().parse_args(arguments)
    try:
        if options.command in WRITING:
            text_files.make_folder(options.out)
        COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except StudioError as error:
        _say(f"Error: {error}")
        return 1
    except OSError as error:  # such as a name that no file system takes
        what = f"{error.filename} cannot be used" if error.filename else "A file or the output cannot be written"
        _say(f"Error: {FileError(f'{what}: {error.strerror or error}.')}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _serve(options: argparse.Namespace) -> None:
    surroundings.prepare_network(options.host)
    from mace_studio.ui import start  # noqa: PLC0415 - gradio takes seconds to import

    studio, demo = start.build(options)
    start.serve(studio, demo, options)


def _erase(options: argparse.Namespace) -> None:
    if options.resume == bool(options.recipes):
        raise RecipeError("recipes", "Name recipes or presets to run, or --resume alone to go on with earlier ones.")
    if options.resume:
        _print_erasures(_resumed(options))
        return
    recipes = [read_recipe(text) for text in options.recipes]
    if options.masks and len(recipes) > 1:
        raise RecipeError("masks", "Masks are of one recipe's training images; erase its recipe alone.")
    user_masks = masks.read(options.masks, recipes[0]) if options.masks else {}
    studio = open_studio(options, options.out)
    if options.estimate:
        _result(studio.measure())
        for recipe in recipes:
            title = f"{recipe.title()}: " if len(recipes) > 1 else ""
            print(f"{title}{studio.estimate(recipe).summary()}")
            print(f"{title}{_result(studio.capacity(recipe)).summary()}")
    else:
        _print_erasures([studio.erase(recipe, user_masks, watched=False) for recipe in recipes])


def _print_erasures(jobs: Sequence[Job]) -> None:
    """Wait for jobs that are queued; Ctrl-C in one cancels the rest, one that fails does not."""
    failed = []
    try:
        for job in jobs:
            try:
                entry = _result(job)
            except StudioError as error:
                failed.append(StudioError(f"{job.title}: {error}") if len(jobs) > 1 else error)
                continue
            for warning in entry.warnings:
                _say(f"{entry.name}: {warning}")
            print(entry.path)
    finally:
        for job in jobs:
            job.cancel()
    for one in failed[:-1]:
        _say(f"Error: {one}")
    if failed:
        raise failed[-1]


def _resumed(options: argparse.Namespace) -> list[Job]:
    """The erasures that a crash or a kill broke off in a folder, under way again on the models that they were for."""
    jobs, studios = list[Job](), dict[Place, Studio]()
    for written in JobLog(options.out / "jobs").interrupted():
        if written.method not in ("erase", "compose"):
            _say(f"“{written.title}” was broken off too; the page offers it.")
            continue
        try:
            if written.place not in studios:
                studios[written.place] = _studio_of(written.place, options)
            jobs.append(studios[written.place].resume(written))
        except StudioError as error:
            _say(f"“{written.title}” cannot go on: {error}")
    if not jobs:
        _say(f"No erasure in {options.out} was broken off.")
    return jobs


def _studio_of(place: Place, options: argparse.Namespace) -> Studio:
    """The studio of the model that a job was for, on the cluster that is named now."""
    return Studio(
        place.source,
        device=place.device,
        dtype=place.dtype,
        output=options.out,
        low_memory=place.low_memory,
        captions=place.captions,
        vae=place.vae,
        text_encoder=place.text_encoder,
        cluster=options.cluster,
        worker_gpus=options.worker_gpus,
    )


def _compose(options: argparse.Namespace) -> None:
    entries = [library.read(_erasure(options, text)) for text in options.erasures]
    add = read_recipe(options.add) if options.add else None
    entry = _result(open_studio(options, options.out).compose(entries, options.remove, add, options.name))
    for warning in entry.warnings:
        print(warning)
    print(entry.path)


def _masks(options: argparse.Namespace) -> None:
    recipes, studio = [read_recipe(text) for text in options.recipes], open_studio(options, options.out)
    for recipe in recipes:
        folder = options.out / f"{slug(recipe.title())}-{recipe.digest()}" if len(recipes) > 1 else options.out
        sheet = _result(studio.masks(recipe))
        for warning in sheet.warnings:
            _say(warning)
        for path in masks.write(sheet, folder):
            print(path)


def _compare(options: argparse.Namespace) -> None:
    paths = [_erasure(options, text) for text in options.erasures]
    studio = open_studio(options, paths[0].parent)
    request = _image_request(studio, options, options.prompt, options.seed or [0])
    names = [path.stem for path in paths]
    pairs = _result(studio.compare(paths[0], request, paths[1:]))
    for pair in pairs:
        folder = options.out / names[pair.erasure] if len(paths) > 1 else options.out
        print(result_files.write_pair(pair, folder), f"mean pixel change {pair.change:.1f}")
    if len(paths) > 1:
        print(result_files.write_sheet(pairs, names, options.out))


def _inspect(options: argparse.Namespace) -> None:
    path = _erasure(options, options.erasure) if options.erasure else None
    studio = open_studio(options, path.parent if path else options.out)
    request = _image_request(studio, options, [options.prompt], [options.seed])
    job = studio.residual(path or "", request) if options.residual else studio.inspect(path, request, options.phrase)
    inspection = _result(job)
    for written in result_files.write_inspection(inspection, options.out):
        print(written)
    for name, one in inspection.runs.items():
        for phrase, share in one.presence.items():
            print(f"{name}: the judge sees “{phrase}” with a probability of {share:.1%}")


def _evaluate(options: argparse.Namespace) -> None:
    measured = [_erasure_or_recipe(options, text) for text in options.measured]
    folders = [options.out if isinstance(one, Recipe) else one.parent for one in measured]
    studio = open_studio(options, options.out if options.out in folders else folders[0])
    _result(studio.load())
    paths = []
    for one in measured:
        paths.append(_result(studio.erase(one)).path if isinstance(one, Recipe) else one)
        print(f"{paths[-1].stem}: {studio.plan(paths[-1], options.plan).summary()}")
    files = result_files.write_evaluation(_result(studio.evaluate(paths, options.plan, options.judge)), options.out)
    print(files[0].read_text(encoding="utf-8"))
    for file in files:
        print(file)


def _export(options: argparse.Namespace) -> None:
    paths = [_erasure(options, text) for text in options.erasures]
    studio = open_studio(options, paths[0].parent)
    if len(paths) > 1 and (options.pair or options.report):
        raise RecipeError("pair", "The images and the report of a model card are of one erased model; export it alone.")
    if twice := sorted({path.stem for path in paths if [one.stem for one in paths].count(path.stem) > 1}):
        raise RecipeError("erasures", f"Two are called “{twice[0]}”, and so would be what is written; export one.")
    for path in paths:
        target = options.out
        if target is None or len(paths) > 1:
            folder = target or OUTPUT / "exports"
            target = folder / f"{path.stem}-{options.format}{FORMATS[options.format].suffix}"
        request = ExportRequest(
            options.format,
            target,
            rank=options.rank,
            energy=options.energy,
            overwrite=options.overwrite,
            pairs=tuple(options.pair),
            report=options.report,
        )
        exported = _result(studio.export(path, request))
        for layer, (rank, share) in exported.residuals.items():
            print(f"{layer}: rank {rank}, {share:.2%} left out")
        print(exported.path, f"{exported.size / 1e6:.1f} MB")


def _study(options: argparse.Namespace) -> None:
    chosen = _search_method if options.method else _study_presets
    (_study_methods if options.study == "methods" else chosen)(options)


def _study_presets(options: argparse.Namespace) -> None:
    searching = options.study == "search"
    rows, first_seed = cases(options.study, options.preset, options.only), SEARCH_SEED if searching else FIRST_SEED
    outcomes = _run(options, rows, first_seed)
    title = f"Study: {options.study}{f', {options.preset}' if searching else ''}, {options.plan} plan"
    text = markdown(title, outcomes, averaged=options.study == "objects")
    path = _table(options, f"{options.study}{f'-{options.preset}' if searching else ''}", options.only)
    measured = [(outcome.report, outcome.seconds) for outcome in outcomes if outcome.report is not None]
    reports, seconds = [report for report, _ in measured], [taken for _, taken in measured]
    print(text)
    for file in result_files.write_study(text, reports, seconds, path):
        print(file)


def _study_methods(options: argparse.Namespace) -> None:
    rows = methods_study.cases(options.task, options.methods, options.only)
    outcomes = _run(options, rows, FIRST_SEED)
    text = methods_study.markdown(f"Methods: {options.task}, {options.plan} plan", options.task, outcomes)
    print(text)
    path = _table(options, f"methods-{options.task}", [*options.methods, *options.only])
    for file in result_files.write_methods(text, outcomes, path):
        print(file)


def _search_method(options: argparse.Namespace) -> None:
    for name in methods_search.SEARCHED if options.method == "all" else [options.method]:
        outcomes = _run(options, some(methods_search.candidates(name, options.preset), options.only), SEARCH_SEED)
        text = markdown(f"Search: {options.preset} by {name}, {options.plan} plan", outcomes)
        print(text)
        path = _table(options, f"search-{options.preset}-{name}", options.only)
        for file in result_files.write_study(text, [], [], path):
            print(file)
        folder = options.recipes or options.out / "recipes"
        for won in methods_search.winners(outcomes, name):
            print(methods_search.write_recipe(won.case.recipe, options.preset, folder))


def _table(options: argparse.Namespace, name: str, only: Sequence[str]) -> Path:
    """The file of a study's table; that of some rows alone is another than that of all."""
    part = f"-{unique_slug(', '.join(only))}" if only else ""
    return options.out / f"{name}-{options.plan}{part}.md"


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "serve": _serve,
    "erase": _erase,
    "masks": _masks,
    "compose": _compose,
    "compare": _compare,
    "inspect": _inspect,
    "evaluate": _evaluate,
    "export": _export,
    "study": _study,
}


# What the commands are given


def _run(options: argparse.Namespace, rows: Sequence[Case], first_seed: int) -> list[Outcome]:
    """Make and measure the rows of a study."""
    machines = Machines(options.cluster, options.worker_gpus)
    work = partial(run, rows, options.plan, options.out, first_seed, erase=machines.erase, evaluate=machines.evaluate)
    return _result(Worker().submit(f"Study {options.study}", work))


def open_studio(options: argparse.Namespace, folder: Path) -> Studio:
    """The studio whose erasures and cache lie in a folder."""
    return Studio(
        options.model,
        device=options.device,
        dtype=options.dtype,
        output=folder,
        low_memory=options.low_memory,
        captions=options.captions,
        vae=options.vae,
        text_encoder=options.text_encoder,
        cluster=getattr(options, "cluster", ""),  # of those commands that erase or evaluate
        worker_gpus=getattr(options, "worker_gpus", 1.0),
    )


def read_recipe(text: str) -> Recipe:
    """The recipe in a file, of the concepts in a CSV file, or of a preset, checked."""
    if text.lower().endswith(".csv"):
        from mace_studio.ui import concept_text  # noqa: PLC0415 - the page's own reader of such files

        concepts = concept_text.from_csv(text_files.read(Path(text)).encode())
        return Recipe(concepts=concepts, name=Path(text).stem).check()
    if os.path.isfile(text) or text.lower().endswith(".json"):
        return lookup.read_recipe(Path(text)).check()
    preset = lookup.find_preset(text)
    _say(f"{text}: the preset {preset.name}")
    return preset.recipe.check()


def _erasure(options: argparse.Namespace, text: str) -> Path:
    """The file of an erasure, by its path or by its name in the folder of results or the usual one."""
    if os.path.isfile(text) or text.endswith(library.SUFFIX):
        return library.read(Path(text)).path
    path = lookup.find_erasure(text, [*([options.out] if options.out else []), OUTPUT])
    _say(f"{text}: the erased model {path}")
    return library.read(path).path


def _erasure_or_recipe(options: argparse.Namespace, text: str) -> Path | Recipe:
    if text.lower().endswith((".json", ".csv")):
        return read_recipe(text)
    try:
        return _erasure(options, text)
    except FileError as error:
        if os.path.isfile(text):
            raise
        try:
            return read_recipe(text)
        except FileError as other:
            raise FileError(f"{error} {other}") from other


def _say(sentence: str) -> None:
    """Beside the results, which alone go to the standard output."""
    print(text_files.printable(sentence), file=sys.stderr)


def _image_request(
    studio: Studio, options: argparse.Namespace, prompts: Sequence[str], seeds: Sequence[int]
) -> ImageRequest:
    size = options.size and tuple(options.size)
    request = ImageRequest(tuple(prompts), tuple(seeds), negative=options.negative, size=size)
    chosen = {name: getattr(options, name) for name in ("steps", "guidance") if getattr(options, name) is not None}
    _result(studio.load())  # it says how many tokens it reads, and what suits it
    for count, most, rest in studio.token_counts([*prompts, *([options.negative] if options.negative else [])]):
        if rest:
            _say(f"A prompt has {count} tokens and the model reads {most}; this is not read: “{sources.shown(rest)}”.")
    return replace(studio.with_defaults(request), **chosen)


def _result(job: Job) -> Any:
    """Show the job's progress until it is over; its result, or its error raised.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the model is free again.
    """

    def on_interrupt(*_: object) -> None:
        # An exception could strike anywhere, also while a lock is held; asking the job to stop cannot.
        signal.signal(signal.SIGINT, usual)
        job.cancel()

    usual = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{remaining}", desc=job.title) as bar:
            for event in filter(None, job.watch()):
                bar.set_description(f"{event.stage} {event.concept}".strip())
                bar.update(100 * event.fraction - bar.n)
    finally:
        signal.signal(signal.SIGINT, usual)
    result = job.wait()
    if job.state == CANCELLED:
        raise KeyboardInterrupt
    return result
