"""`python -m mace_studio.miniature train|evaluate`: trains the built-in model, and says how good it is.

A training survives being killed: it writes a checkpoint every minute, and `--resume` goes on from there. On Linux
`MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296` makes a step about 1.4 times as fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mace_studio.miniature import autoencoder, clip, diffusion, evaluate, folders, judge_training, tokenizer
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.training import Plan

# The share of the minutes that a part gets when all are trained.
SHARES = {"clip": 0.05, "vae": 0.2, "model": 0.65, "judge": 0.1}


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
    commands = parser.add_subparsers(required=True, metavar="train|evaluate")

    train = commands.add_parser("train", help="train the autoencoder, the model, the judge, or all in turn")
    train.add_argument("part", nargs="?", default="all", choices=(*SHARES, "all"))
    train.add_argument("--minutes", type=float, default=60, help="in all, with what was spent before a --resume")
    train.add_argument("--steps", type=int, help="a budget in steps of each part instead, for runs that come out alike")
    train.add_argument("--batch", type=int, help="samples a step; usually 16 for the autoencoder, else 32")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets model/, judge/ and training/")
    train.add_argument("--start", type=Path, metavar="FOLDER", help="a model in the diffusers layout to go on with")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    train.add_argument("--decoder-only", action="store_true", help="leave the autoencoder's encoder as it is")
    train.add_argument("--samples", type=int, default=30000, help="composed pictures that the model is trained on")
    train.set_defaults(run=_train)

    judged = commands.add_parser("evaluate", help="how often the judge sees what the model was asked for")
    judged.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    judged.add_argument("--judge", type=Path, required=True, metavar="FOLDER")
    judged.add_argument("--images", type=int, default=4, help="for each word")
    judged.add_argument("--composed", type=int, default=1000, help="composed pictures that the judge is tried on")
    judged.add_argument("--seed", type=int, default=0)
    judged.set_defaults(run=_evaluate)
    return parser


def _train(options: argparse.Namespace) -> None:
    if options.start is not None:
        folders.adopt(options.start, options.out / "model")
    trains = {"clip": _train_clip, "vae": _train_vae, "model": _train_model, "judge": _train_judge}
    plans = {"clip": clip.PLAN, "vae": autoencoder.PLAN, "model": diffusion.PLAN, "judge": judge_training.PLAN}
    for part in SHARES if options.part == "all" else (options.part,):
        minutes = options.minutes * (SHARES[part] if options.part == "all" else 1)
        batch = options.batch or plans[part].batch
        plan = replace(plans[part], minutes=minutes, steps=options.steps, batch=batch)
        trains[part](options, plan, options.out / "training" / part)


def _train_clip(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    words = tokenizer.build()
    clip.train(clip.build(words), words, plan, options.out / "clip", work, options.resume)


def _train_vae(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    vae = autoencoder.build() if options.start is None else folders.load_vae(options.start)
    autoencoder.train(vae, plan, options.out / "model", work, options.resume, options.decoder_only)


def _train_model(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    model = options.out / "model"
    vae = folders.load_vae(model)
    text, words = folders.load_text(options.out / "clip")
    width = text.config.hidden_size
    if options.start is None:
        unet = diffusion.build_unet(width)
    else:
        unet = diffusion.fitted(folders.load(options.start).unet, width)
    whole = folders.pipeline(vae, text, unet, words)
    diffusion.train(whole, plan, model, work, options.resume, options.samples)


def _train_judge(options: argparse.Namespace, plan: Plan, work: Path) -> None:
    judge_training.train(judge_training.build(), plan, options.out / "judge", work, options.resume)


def _evaluate(options: argparse.Namespace) -> None:
    whole, judge = folders.load(options.model), Judge.load(options.judge)
    rows = [
        *evaluate.generated(whole, judge, options.images, options.seed),
        *evaluate.composed(judge, options.composed),
    ]
    print(evaluate.table(rows))
    print(f"\nAutoencoder: {autoencoder.psnr(whole.vae):.2f} dB on held-out composed pictures.")


if __name__ == "__main__":
    sys.exit(main())
