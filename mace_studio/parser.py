"""The flags of the page and of every command of the terminal."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from mace_studio.errors import QUOTED
from mace_studio.evaluation.methods_search import SEARCHED
from mace_studio.evaluation.methods_study import TASKS
from mace_studio.evaluation.plan import IMAGES
from mace_studio.evaluation.study import STUDIES
from mace_studio.exports.formats import ENERGY, FORMATS

ABOUT = "MACE Studio: erase concepts from text-to-image diffusion models."
OUTPUT = Path("output")  # where the page and the terminal keep erasures, unless they are told otherwise
AUTH = "MACE_STUDIO_AUTH"
RECIPE = "path of a recipe or of a CSV file of concepts, or the name of a preset such as cat"
ERASURE = "path of an erased model, or its name"


def page_parser() -> argparse.ArgumentParser:
    """Of `python app.py`."""
    return _Parser(description=ABOUT, parents=[_model_flags(), _page_flags()])


def command_parser() -> argparse.ArgumentParser:
    """Of `mace-studio`; the name of the command is put into `command`."""
    parser = _Parser(prog="mace-studio", description=ABOUT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model, images = _model_flags(), _image_flags()
    commands.add_parser("serve", parents=[model, _page_flags()], help="serve the page, as python app.py does")
    _add_erase(commands.add_parser("erase", parents=[model], help="run recipes"))
    _add_masks(commands.add_parser("masks", parents=[model], help="the training images of recipes and their masks"))
    _add_compose(
        commands.add_parser("compose", parents=[model], help="fuse erased models, add concepts or take some out")
    )
    _add_compare(commands.add_parser("compare", parents=[model, images], help="generate before and after an erasure"))
    _add_inspect(
        commands.add_parser("inspect", parents=[model, images], help="where the model looks, before and after")
    )
    _add_evaluate(commands.add_parser("evaluate", parents=[model], help="measure what is gone and what has suffered"))
    _add_export(commands.add_parser("export", parents=[model], help="write erased models for other programs"))
    _add_study(commands.add_parser("study", help="a table over many erasures of the built-in model"))
    return parser


def _model_flags() -> _Parser:
    flags = _Parser(add_help=False)
    flags.add_argument("--model", help="folder, hub id or single .safetensors file (default: the built-in model)")
    flags.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    flags.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: auto)")
    flags.add_argument("--low-memory", action="store_true", help="for small graphics cards; slower")
    flags.add_argument(
        "--vae", default="", help="folder, hub id or file of another VAE, such as for a file without one"
    )
    flags.add_argument("--text-encoder", default="", help="folder or hub id of another text encoder")
    flags.add_argument("--captions", type=Path, help="general captions: text, or MS-COCO's captions_*.json")
    return flags


def _page_flags() -> _Parser:
    flags = _Parser(add_help=False)
    flags.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to serve on")
    flags.add_argument("--port", type=_port, help="port to serve on (default: the first free one from 7860)")
    flags.add_argument(
        "--output-dir", "--out", dest="out", type=Path, default=OUTPUT, help="where erased models and images go"
    )
    flags.add_argument("--mcp", action=_Mcp, help="serve assistants too, by the Model Context Protocol")
    asked = flags.add_mutually_exclusive_group()
    asked.add_argument(
        "--auth",
        type=_credentials,
        default=os.environ.get(AUTH) or None,
        metavar="USER:PASSWORD",
        help=f"ask users for this; others on this machine can read it here, not in the variable {AUTH} or in a file",
    )
    asked.add_argument(
        "--auth-file", dest="auth", type=_credentials_file, metavar="PATH", help="file whose first line is that"
    )
    _add_cluster(flags)
    return flags


def _image_flags() -> _Parser:
    flags = _Parser(add_help=False)
    flags.add_argument("--steps", type=_whole, help="20 when left out, fewer with a distilled model")
    flags.add_argument("--guidance", type=_number, help="7.5 when left out, 1 with a distilled model")
    flags.add_argument("--negative", default="", help="what to steer away from")
    flags.add_argument(
        "--size", type=_whole, nargs=2, metavar=("HEIGHT", "WIDTH"), help="the model's own when left out"
    )
    return flags


class _Parser(argparse.ArgumentParser):
    """Its errors repeat no more of a long argument than those of the studio."""

    def error(self, message: str) -> NoReturn:
        super().error(" ".join(w if len(w) <= QUOTED else f"{w[: QUOTED - 1]}…" for w in message.split(" ")))


def _plan(text: str) -> str:
    if text not in IMAGES:  # said before anything is generated
        raise argparse.ArgumentTypeError(f"“{text}” is no plan; use one of {', '.join(IMAGES)}")
    return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"“{text}” cannot be read as a whole number; give one such as 7") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"“{text}” cannot be read as a number; give one such as 0.5") from error


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) < 6 and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)


class _Mcp(argparse.Action):
    """A flag that is refused where its packages are missing."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        if not find_spec("mcp"):
            parser.error("--mcp needs more packages; install them with: pip install 'gradio[mcp]==6.31.*'")
        setattr(namespace, self.dest, True)


def _credentials_file(path: str) -> tuple[str, str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = file.readline(1000)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read") from error
    if len(line) == 1000 and not line.endswith("\n"):  # part of a password would let nobody in
        raise argparse.ArgumentTypeError(f"the first line of {path} is too long; 999 characters are the most")
    return _credentials(line.rstrip("\r\n"))


def _credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("write it as user:password")
    return user, password


# The commands


def _add_out(parser: argparse.ArgumentParser, folder: Path, what: str) -> None:
    parser.add_argument("--out", type=Path, default=folder, metavar="DIR", help=f"{what} (default: {folder})")


def _add_erase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=RECIPE)
    _add_out(parser, OUTPUT, "where the erased models go")
    parser.add_argument("--resume", action="store_true", help="go on with what a crash or a kill broke off there")
    parser.add_argument("--estimate", action="store_true", help="say what it takes, and do not run it")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="PNG files as the command masks writes them")
    _add_cluster(parser)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        default="",
        metavar="auto|ADDRESS",
        help="run MACE and evaluations on a Ray cluster, auto for the one of this machine (docs/cluster.md)",
    )
    parser.add_argument("--worker-gpus", type=_number, default=1.0, help="of each worker, such as 0.5 (default: 1)")


def _add_masks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help=RECIPE)
    _add_out(parser, OUTPUT / "masks", "where the images go; of several recipes, in a folder each")


def _add_compose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("erasures", nargs="+", metavar="ERASURE", help=f"{ERASURE}; the settings are the first's")
    _add_out(parser, OUTPUT, "where the erased model goes")
    parser.add_argument("--remove", nargs="+", default=[], metavar="PHRASE", help="what is erased no longer")
    parser.add_argument("--add", metavar="RECIPE", help=f"its concepts are trained and erased as well; {RECIPE}")
    parser.add_argument("--name", default="", help="what to call the result; made of its concepts when left out")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("erasures", nargs="+", metavar="ERASURE", help=ERASURE)
    _add_out(
        parser,
        OUTPUT / "pairs",
        "where the images go; of several erased models, in a folder each, beside one sheet of all",
    )
    parser.add_argument("--prompt", action="append", required=True, help="may be given several times")
    parser.add_argument("--seed", action="append", type=_whole, help="may be given several times; 0 when left out")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("erasure", nargs="?", metavar="ERASURE", help=f"{ERASURE}; the model as it is when left out")
    _add_out(parser, OUTPUT / "attention", "where the maps go")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--seed", type=_whole, default=0)
    parser.add_argument("--phrase", action="append", default=[], help="what counts as one word, beside the concepts")
    parser.add_argument("--residual", action="store_true", help="replace the concept's words by the end token instead")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "measured", nargs="+", metavar="ERASURE|RECIPE", help=f"{ERASURE}; a recipe or preset is run first"
    )
    _add_out(parser, OUTPUT / "reports", "where the reports go, and what recipes make")
    _add_plan(parser)
    parser.add_argument("--judge", help="hub id or folder of a CLIP model; the model's own judge when left out")
    _add_cluster(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan",
        type=_plan,
        default="quick",
        help="quick: at least 8 images a word, of up to 24 words a list; full: at least 56 of all",
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("erasures", nargs="+", metavar="ERASURE", help=ERASURE)
    formats = "; ".join(f"{name}: {row.about}" for name, row in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, required=True, help=formats)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help=f"a folder for diffusers, else a .safetensors file; of several erased models, a folder for all of them "
        f"(default: in {OUTPUT / 'exports'})",
    )
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--rank", type=_whole, help="of a lora, the same in all layers")
    share.add_argument("--energy", type=_number, help=f"share of the change that a lora keeps; {ENERGY} when left out")
    parser.add_argument(
        "--pair", type=Path, action="append", default=[], metavar="PNG", help="of compare, for the model card"
    )
    parser.add_argument("--report", type=Path, metavar="report.json", help="of evaluate, for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", choices=[*STUDIES, "methods"])
    _add_out(parser, OUTPUT / "studies", "where erased models, images and tables go")
    _add_plan(parser)
    parser.add_argument("--preset", default="cat", help="what a search varies, such as cat, people-5 or artists-20")
    parser.add_argument("--task", choices=TASKS, default="objects", help="of the study of methods")
    methods = "such as mace uce esd-x; all if none"
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=[], help=methods)
    only = "subjects of the task, such as cat dog; of other studies, rows with such a text in their name"
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=[], help=only)
    parser.add_argument("--method", choices=[*SEARCHED, "all"], help="search the settings of this method")
    parser.add_argument("--recipes", type=Path, metavar="DIR", help="where a search of a method writes what won")
    _add_cluster(parser)
