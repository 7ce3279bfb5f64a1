"""The studio: one loaded model, the use cases as methods that return a Job, and the erasures on disk.

The work itself is a task of `tasks`, which may run in another process. The libraries behind the model take seconds to
import: that happens on the worker's thread, so that the page is up before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mace_studio import presets, sources
from mace_studio.caption_files import captions_of, read_captions
from mace_studio.errors import FileError, ModelError, RecipeError
from mace_studio.evaluation.plan import FIRST_SEED, Plan, make_plan, with_one_guidance
from mace_studio.exports.formats import ExportRequest
from mace_studio.masks import UserMasks, check_takes_masks
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Report, silent
from mace_studio.recipe import ImageRequest, Recipe, joined
from mace_studio.runtime import estimate, library, vocabulary
from mace_studio.runtime.estimate import Estimate, Status
from mace_studio.runtime.job_desk import PATIENCE, JobDesk, survives
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.loaded_model import BUILT_IN_NAME
from mace_studio.runtime.perform import Perform, Place, perform
from mace_studio.runtime.vocabulary import Vocabulary
from mace_studio.settings import ImageSettings, check_phrases, counted

Settings = TypeVar("Settings", ImageRequest, ImageSettings, Plan)


class Studio(JobDesk):
    """Owns the model through one worker thread.

    The arguments of a method are checked before a job is queued: a FileError says that there is no erasure of a name, a
    RecipeError names the setting that cannot be run. An erasure is chosen by its name in the output folder, or by the
    Path of its file, which only this machine's own user may give.

    Args:
        source: folder, hub id or single .safetensors file of the model; the built-in miniature when None.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        output: where erasures, images and cached training images go.
        low_memory: for small graphics cards: slower, see `sd.model.load`.
        captions: file of general captions, text or MS-COCO's JSON; None takes those that go with the model.
        vae: folder, hub id or file of another VAE for the first model; its own when empty.
        text_encoder: folder or hub id of another text encoder for the first model; its own when empty.
        cluster: address of a Ray cluster for MACE and evaluations, "auto", or "" for this machine alone.
        worker_gpus: GPUs of each of its workers.
        perform: `runtime.perform.perform`, or the same inside `spaces.GPU`, which has a GPU only meanwhile.
        fixed: many users share it: nobody may change the model, and each request is limited (`quota`).
        user: names the user who asks, where it is fixed: each has a folder of erasures, beside those that all see.
        machine: the address that they ask from; jobs are bounded for each.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        output: Path = Path("output"),
        low_memory: bool = False,
        captions: Path | None = None,
        vae: str = "",
        text_encoder: str = "",
        cluster: str = "",
        worker_gpus: float = 1.0,
        perform: Perform = perform,
        fixed: bool = False,
        user: Callable[[], str | None] = lambda: None,
        machine: Callable[[], str] = lambda: "",
    ) -> None:
        if captions is not None:
            read_captions(captions)  # what cannot be read is said now: a run reads them after its images are made
        place = Place(
            source=sources.cleaned(source) if source else str(BUILT_IN),
            device=device,
            dtype=dtype,
            low_memory=low_memory,
            output=output,
            cache=output / "cache",
            captions=captions,
            vae=vae,
            text_encoder=text_encoder,
            cluster=cluster,
            worker_gpus=worker_gpus,
        )
        super().__init__(place, perform, fixed, user, machine)
        self._compared: Job | None = None

    # The model

    @property
    def source(self) -> str:
        """Folder, hub id or file of the model."""
        return self._model.place.source

    @property
    def output(self) -> Path:
        """The folder of erasures of the user who asks."""
        return self.place.output

    def status(self) -> Status:
        """What is known of the model at this moment."""
        return self._model.status

    def load(self) -> Job:
        """Import the libraries and load the model, so that the first erasure does not have to."""
        return self._worker.submit("Load the model", self._model.load)

    def prepare(self) -> None:
        """Load the model now, in this thread: ZeroGPU hands on to its workers what the main thread has loaded."""
        self._model.load(silent)

    def change(self, source: str, device: str = "auto", dtype: str = "auto", low_memory: bool = False) -> Job:
        """Load another base model, as the studio itself or by `BUILT_IN_NAME`; jobs queued before still use this one.

        Raises:
            RecipeError: the base model is fixed; the job's, that the other one cannot be loaded, in which case the one
                before is loaded again. The field is "source".
        """
        if self.fixed:
            raise RecipeError("source", "The base model stays as it is, since many users share this studio.")
        try:
            wanted = str(BUILT_IN) if source.strip() in ("", BUILT_IN_NAME) else sources.cleaned(source)
        except ModelError as error:
            raise RecipeError("source", str(error)) from error

        def work(progress: Report) -> None:
            before, self._compared = self._model.place, None
            place = replace(before, source=wanted, vae="", text_encoder="")
            place = replace(place, device=device, dtype=dtype, low_memory=low_memory)
            self._model.exchange(place, progress)
            for used in (before.source, wanted):
                if used != str(BUILT_IN):
                    library.remember(self.output, used)

        return self._worker.submit(f"Load {sources.shown(source)}", work, source, PATIENCE)

    def vocabulary(self) -> Vocabulary | None:
        """What the model has learned, if that is known: of the built-in one."""
        return vocabulary.built_in() if self.source == str(BUILT_IN) else None

    def measure(self) -> Job:
        """Load the model and time a few of its steps, so that a run can be estimated; nothing is done twice."""
        return self._worker.submit("Time the model", self._model.measure)

    @property
    def timed(self) -> bool:
        """Whether `measure` has been done."""
        return self._model.costs is not None

    def with_defaults(self, asked: Settings) -> Settings:
        """Steps and guidance as asked, or what suits a distilled model, once it is loaded."""
        if self.status().state != "ready":
            return asked
        from mace_studio.runtime import tasks  # noqa: PLC0415 - torch, which is here once the model is

        return tasks.with_defaults(asked)

    def estimate(self, recipe: Recipe) -> Estimate:
        """Count what a run of this recipe takes; nothing is computed."""
        status = self.status()
        return estimate.estimate(recipe, status.memory, self._model.costs, self.place.cache, status.width)

    def wait(self) -> tuple[int, float | None]:
        """How many jobs must end before a new one of the user who asks begins, and in about how many seconds.

        The seconds are None where nobody knows of one of the jobs. Loading the model counts for none.
        """
        jobs = [job for job in self._worker.before(self._owners()[0]) if job.request is not None]
        left = [job.seconds_left() for job in jobs]
        for i, job in enumerate(jobs):
            if left[i] is None and isinstance(job.request, Recipe) and self.timed:
                left[i] = self.estimate(job.request).seconds
        known = [seconds for seconds in left if seconds is not None]
        return len(jobs), sum(known) if len(known) == len(left) else None

    def capacity(self, recipe: Recipe) -> Job:
        """Look at one prompt of each phrase; the result is a `Capacity`: what the projections can hold of a recipe."""
        recipe.check()
        return self._submit(f"Capacity of {recipe.title()}", recipe, "capacity", recipe)

    def token_counts(self, prompts: Sequence[str]) -> list[tuple[int, int, str]]:
        """Of each prompt its tokens, how many the model reads, and the end that it does not; empty until it is loaded.

        For a counter beside a prompt's field; it may be called while a job runs.
        """
        if self.status().state != "ready":
            return []
        from mace_studio.runtime import tasks  # noqa: PLC0415 - torch, which is here once the model is

        return tasks.token_counts(prompts)

    def check(self, recipe: Recipe) -> Recipe:
        """Return a recipe that this model can run: like `Recipe.check`, and no phrase is too long for the model.

        Raises:
            RecipeError: it cannot be run; the message names the field.
        """
        recipe.check()
        if self.status().state == "ready":
            from mace_studio.runtime import tasks  # noqa: PLC0415 - torch, which is here once the model is

            tasks.check_lengths(recipe)
        return recipe

    # Jobs

    @survives
    def erase(self, recipe: Recipe, user_masks: UserMasks | None = None, watched: bool = True) -> Job:
        """Run a recipe. Events are `Progress`; the result is the `Entry` of the file that was written.

        Args:
            recipe: what to erase.
            user_masks: masks that a user made, in place of those of the recipe's source; the file's name tells them
                apart.
            watched: whether it is cancelled where nobody watches it; one of a queue is not, but where many share the
                studio.
        """
        self.check(recipe)
        if user_masks:
            check_takes_masks(recipe)
        patience = PATIENCE if watched or self.fixed else math.inf
        return self._submit(f"Erase {recipe.title()}", recipe, "erase", recipe, user_masks, patience=patience)

    @survives
    def masks(self, recipe: Recipe) -> Job:
        """Generate the training images of a recipe and mask them by its source; the result is a `MaskSheet`."""
        recipe.check()
        return self._submit(f"Masks of {recipe.title()}", recipe, "masks", recipe)

    @survives
    def compose(
        self, entries: Sequence[Entry | Path], remove: Sequence[str] = (), add: Recipe | None = None, name: str = ""
    ) -> Job:
        """Fuse erasures of this studio's model into one, see `methods.mace.compose`. The result is an `Entry`.

        Raises:
            RecipeError: as of `recipe.joined`; nothing was queued.
        """
        counted("models", len(entries), "erasures")
        found = [self.entry(entry) if isinstance(entry, Path) else entry for entry in entries]
        recipe, paths = joined([e.recipe for e in found], remove, add, name), tuple(e.path for e in found)
        return self._submit(f"Compose {recipe.title()}", recipe, "compose", paths, tuple(remove), add, name)

    @survives
    def compare(self, erasure: str | Path, request: ImageRequest, others: Sequence[str | Path] = ()) -> Job:
        """Generate every prompt with every seed, before and after; events are `Progress`, the result is [Pair].

        Args:
            erasure: name or path.
            request: what to generate.
            others: names or paths of more erasures, to be seen beside the first.
        """
        counted("models", 1 + len(others), "erasures")
        entries = [self.entry(one) for one in (erasure, *others)]
        request.check()
        names, paths = tuple(entry.name for entry in entries), tuple(entry.path for entry in entries)
        self._compared = self._submit(f"Compare {', '.join(names)}", (names, request), "compare", paths, request)
        return self._compared

    @survives
    def inspect(self, erasure: str | Path | None, request: ImageRequest, phrases: Sequence[str] = ()) -> Job:
        """Record the attention to one prompt's words, before and after an erasure; the result is an `Inspection`.

        Args:
            erasure: name or path; None looks at the model as it is.
            request: one prompt and one seed.
            phrases: what counts as one word, beside the erasure's concepts and synonyms.
        """
        entry = self.entry(erasure) if erasure else None
        request.check_alone()
        check_phrases(phrases)
        title, path = (entry.name, entry.path) if entry else (self.status().name, None)
        return self._submit(f"Inspect {title}", request, "inspect", path, request, tuple(phrases))

    @survives
    def residual(self, erasure: str | Path, request: ImageRequest) -> Job:
        """Generate a prompt with the concept's embeddings replaced, in three stages; the result is an `Inspection`."""
        entry = self.entry(erasure)
        request.check_alone()
        return self._submit(f"What is left of {entry.name}", request, "residual", entry.path, request)

    @survives
    def preview(self, recipe: Recipe, request: ImageRequest) -> Job:
        """Generate an image with and without a recipe's refinement, training nothing; the result is a `Preview`."""
        recipe.check()
        request.check_alone()
        return self._submit(f"Preview {recipe.title()}", request, "preview", recipe, request)

    def plan(self, erasure: str | Path, size: str = "quick", first_seed: int = FIRST_SEED) -> Plan:
        """What an evaluation of an erasure will generate; nothing is generated.

        Args:
            erasure: name or path.
            size: "quick" or "full".
            first_seed: of the images of every prompt.
        """
        recipe = self.entry(erasure).recipe
        captions = read_captions(self.place.captions or captions_of(self.source))
        plan = make_plan(recipe, size, captions=captions, first_seed=first_seed, kinds=presets.known_kinds())
        return self.with_defaults(plan)

    def seconds(self, plan: Plan) -> float | None:
        """How long a plan will take at the pace of the last comparison; None while there is none."""
        job = self._compared
        if job is None or job.state != DONE:
            return None
        request: ImageRequest = job.request[1]
        forwards = (len(request.pairs()) + len(job.result)) * request.steps * (2 if request.guidance > 1 else 1)
        return job.events[-1].seconds / forwards * plan.forwards

    @survives
    def evaluate(
        self,
        erasures: Sequence[str | Path],
        size: str = "quick",
        judge: str | None = None,
        first_seed: int = FIRST_SEED,
    ) -> Job:
        """Measure erasures one after another. Events are `Progress`; the result is a `Report` of each.

        Args:
            erasures: names or paths.
            size: "quick" or "full".
            judge: hub id or folder of a CLIP model; None takes the model's own judge, or else CLIP ViT-L/14.
            first_seed: of the images of every prompt.

        Raises:
            RecipeError: also for a judge where the studio is fixed.
        """
        self.check_judge(judge)
        counted("models", len(erasures), "erasures")
        entries = [self.entry(erasure) for erasure in erasures or [""]]
        plans = [self.plan(entry.path, size, first_seed) for entry in entries]
        guided = with_one_guidance([(entry.recipe.method, plan) for entry, plan in zip(entries, plans, strict=True)])
        planned = list(zip([entry.path for entry in entries], guided, strict=True))
        names = tuple(entry.name for entry in entries)
        return self._submit(f"Evaluate {', '.join(names)}", (names, size), "evaluate", planned, judge)

    @survives
    def sample(
        self, erasure: str | Path, words: int = 0, beyond: int = 4, pairs: int = 10, judge: str | None = None
    ) -> Job:
        """Let a judge look at a few images before and after; the result is a `Report`, and no score is noted.

        The judge is that of `evaluate`; the other arguments, and errors, are those of `vocabulary.sample`.
        """
        entry = self.entry(erasure)
        plan = self.with_defaults(vocabulary.sample(entry.recipe, self.vocabulary(), words, beyond, pairs))
        return self._submit(f"Look at {entry.name}", (entry.name, entry.recipe), "sample", entry.path, plan, judge)

    @survives
    def export(self, erasure: str | Path, request: ExportRequest) -> Job:
        """Write an erasure in a format that other programs load. Events are `Progress`; the result is an `Exported`.

        Raises:
            FileError: there is no erasure of this name, or something is at the path already.
            RecipeError: a setting that does not fit; the message names it.
        """
        entry = self.entry(erasure)
        request.check()
        if request.path.resolve() == entry.path.resolve():
            raise FileError(f"{request.path} is the erasure itself, which stays; choose another name.")
        return self._submit(f"Export {entry.name}", request, "export", entry.path, request)

    # Erasures on disk

    def entries(self) -> list[Entry]:
        """Every erasure that the user who asks may use, newest first: their own, and then those that all see."""
        return self.listing()[0]

    def listing(self) -> tuple[list[Entry], list[str]]:
        """The same, and a sentence for each file of one's own folder that is no erasure and so is not among them."""
        own, passed_over = library.listing(self.output)
        if self.output == self._model.place.output:
            return own, passed_over
        names = {entry.name for entry in own}
        common = [entry for entry in library.entries(self._model.place.output) if entry.name not in names]
        return own + common, passed_over

    def entry(self, erasure: str | Path) -> Entry:
        """The erasure of a name, one's own or one that all see, or the one at a path.

        Raises:
            FileError: there is none.
        """
        if isinstance(erasure, Path):
            return library.read(erasure)
        own = library.exists(self.output, erasure)
        return library.find(self.output if own else self._model.place.output, erasure)
