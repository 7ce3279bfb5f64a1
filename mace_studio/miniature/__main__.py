"""`python -m mace_studio.miniature train|evaluate|faithful`: trains the built-in model, and says how good it is.

A training survives being killed: it writes a checkpoint every minute, and `--resume` goes on from there. On Linux
`MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296` makes a step about 1.4 times as fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from mace_studio.miniature import autoencoder, clip, diffusion, evaluate, faithful, folders, judge_training, tokenizer
from mace_studio.miniature.grounding import Hidden
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.training import Plan

BEHAVIOURS = ["geometry", "own-word", "residual", "stages", "fusions", "mass"]
# The share of the minutes that a part gets when all are trained.
SHARES = {"clip": 0.05, "vae": 0.2, "model": 0.65, "judge": 0.1}
HIDDEN = (
    "share of captions that lose their end token and padding while the model is trained",
    "share of captions that lose the concept's own tokens instead",
    "share of captions whose end token and padding are another caption's",
    "weight of the loss on where attention looks, beside that of the velocity",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 after an error that is told in a sentence."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        options.run(options)
    except FileNotFoundError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mace_studio.miniature", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="train|evaluate|faithful")

    train = commands.add_parser("train", help="train the CLIP, the autoencoder, the model, the judge, or all in turn")
    train.add_argument("part", nargs="?", default="all", choices=(*SHARES, "all"))
    train.add_argument("--minutes", type=float, default=60, help="in all, with what was spent before a --resume")
    train.add_argument("--steps", type=int, help="a budget in steps of each part instead, for runs that come out alike")
    train.add_argument("--batch", type=int, help="samples a step; each part has its own usual number")
    train.add_argument("--rate", type=float, help="the highest learning rate; each part has its own usual one")
    train.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets clip/, model/, judge/ and training/"
    )
    train.add_argument("--start", type=Path, metavar="FOLDER", help="a model whose autoencoder and UNet to go on with")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    train.add_argument("--decoder-only", action="store_true", help="leave the autoencoder's encoder as it is")
    train.add_argument(
        "--image-side-only", action="store_true",
        help="of the CLIP in DIR, or of a new one around the text encoder of --start; UNets still fit",
    )  # fmt: skip
    _add_device(train)
    train.add_argument("--workers", type=int, default=0, help="processes that compose images; 0: the training itself")
    train.add_argument("--samples", type=int, default=30000, help="composed images that the model is trained on")
    for part, told in zip(fields(Hidden), HIDDEN, strict=True):
        train.add_argument(f"--{part.name.replace('_', '-')}", type=float, default=part.default, help=told)
    train.set_defaults(run=_train)

    judged = commands.add_parser("evaluate", help="how often the judge sees what the model was asked for")
    judged.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    judged.add_argument("--judge", type=Path, required=True, metavar="FOLDER")
    judged.add_argument("--images", type=int, default=4, help="for each word")
    judged.add_argument("--composed", type=int, default=1000, help="composed images that the judge is tried on")
    judged.add_argument("--seed", type=int, default=0)
    judged.add_argument("--steps", type=int, default=20, help="denoising steps of an image")
    _add_device(judged)
    judged.set_defaults(run=_evaluate)

    alike = commands.add_parser("faithful", help="whether the model behaves as Stable Diffusion does")
    alike.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    alike.add_argument("--judge", type=Path, required=True, metavar="FOLDER")
    alike.add_argument("--only", nargs="*", default=BEHAVIOURS, choices=BEHAVIOURS)
    alike.add_argument("--concepts", type=int, default=10, help="things, and people, of own-word and residual")
    alike.add_argument("--seeds", type=int, default=8, help="images of each of them")
    alike.add_argument("--stages", type=int, nargs="*", default=[20, 100], help="numbers of people of the third")
    alike.add_argument("--fusions", type=int, nargs="*", default=[100], help="and of both fusions at several rates")
    alike.add_argument("--mass", type=int, nargs="*", default=[1, 5, 10, 50, 100], help="and of the fourth")
    _add_device(alike)
    alike.add_argument("--cache", type=Path, metavar="DIR", help="keeps training images and Grams")
    alike.set_defaults(run=_faithful)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where torch computes, such as cuda")


def _train(options: argparse.Namespace) -> None:
    if options.start is not None:
        folders.adopt(options.start, options.out / "model")
    trains = {"clip": _train_clip, "vae": _train_vae, "model": _train_model, "judge": _train_judge}
    plans = {"clip": clip.PLAN, "vae": autoencoder.PLAN, "model": diffusion.PLAN, "judge": judge_training.PLAN}
    for part in SHARES if options.part == "all" else (options.part,):
        minutes = options.minutes * (SHARES[part] if options.part == "all" else 1)
        batch, rate = options.batch or plans[part].batch, options.rate or plans[part].rate
        plan = replace(plans[part], minutes=minutes, steps=options.steps, batch=batch, rate=rate)
        trains[part](options, plan, options.out / "training" / part)


def _train_clip(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    folder, words, only = options.out / "clip", tokenizer.build(), options.image_side_only
    if not only:
        model = clip.build(words)
    elif options.start is not None and not folder.exists():
        model = clip.around(folders.load(options.start).text_encoder, words)
    else:
        model = folders.load_clip(folder)
    work = work.with_name("clip-image") if only else work
    clip.train(model.to(options.device), words, plan, folder, work, options.resume, only, options.workers)


def _train_vae(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    vae = autoencoder.build() if options.start is None else folders.load_vae(options.start)
    autoencoder.train(
        vae.to(options.device), plan, options.out / "model", work, options.resume, options.decoder_only, options.workers
    )


def _train_model(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    model = options.out / "model"
    vae = folders.load_vae(model)
    started = None if options.start is None else folders.load(options.start)
    if started is not None and not (options.out / "clip").exists():
        text, words = started.text_encoder, started.tokenizer
    else:
        text, words = folders.load_text(options.out / "clip")
    width = text.config.hidden_size
    unet = diffusion.build_unet(width) if started is None else diffusion.fitted(started.unet, width)
    whole = folders.pipeline(vae, text, unet, words).to(options.device)
    hidden = Hidden(**{part.name: getattr(options, part.name) for part in fields(Hidden)})
    diffusion.train(whole, plan, model, work, options.resume, options.samples, options.workers, hidden)


def _train_judge(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    model, judge = options.out / "model", judge_training.build().to(options.device)
    vae = folders.load_vae(model).to(options.device) if (model / "vae").is_dir() else None
    judge_training.train(judge, plan, options.out / "judge", work, options.resume, vae, options.workers)


def _evaluate(options: argparse.Namespace) -> None:
    whole, judge = folders.load(options.model).to(options.device), Judge.load(options.judge)
    rows = [
        *evaluate.generated(whole, judge, options.images, options.seed, steps=options.steps),
        *evaluate.composed(judge, options.composed),
        *evaluate.composed(judge, options.composed, whole.vae),
    ]
    print(evaluate.table(rows))
    print(f"\nAutoencoder: {autoencoder.psnr(whole.vae):.2f} dB on held-out composed images.")


def _faithful(options: argparse.Namespace) -> None:
    whole, judge = folders.load(options.model).to(options.device), Judge.load(options.judge)
    things, people = faithful.concepts(options.concepts)
    findings: list[faithful.Finding] = []
    if "geometry" in options.only:
        findings += faithful.geometry(whole)
    if "own-word" in options.only:
        for kind, names in (("things", things), ("people", people)):
            findings += faithful.own_word(whole, names, options.seeds, kind)
    if "residual" in options.only:
        findings += faithful.residual(whole, judge, (*things, *people), options.seeds)
    if {"stages", "fusions", "mass"} & {*options.only}:
        # What erases stands outside of the miniature, which imports nothing of the studio but here.
        from mace_studio.miniature import erasing  # noqa: PLC0415

        stages, fusions, mass = (
            asked if name in options.only else []
            for name, asked in (("stages", options.stages), ("fusions", options.fusions), ("mass", options.mass))
        )
        findings += erasing.findings(options.model, judge, stages, fusions, mass, options.cache, options.device)
    print(faithful.table(findings))


if __name__ == "__main__":
    sys.exit(main())
