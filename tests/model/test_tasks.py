"""Tasks as a GPU worker runs them: forked, used again for the next visitor, with everything pickled on the way."""

import multiprocessing
import pickle
from dataclasses import replace

import pytest
import torch

from mace_studio import erasure
from mace_studio.core.ridge import SingularGram
from mace_studio.errors import FileError, RecipeError
from mace_studio.export.formats import ExportRequest
from mace_studio.masks import whole
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import tasks
from mace_studio.runtime.studio import BUILT_IN, Studio
from mace_studio.sd import projections
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import finish, untouched

QUICK = Recipe(
    concepts=(Concept("cat", "forest"),),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=2),
        images=ImageSettings(per_concept=1, steps=2),
    ),
)
DRAWING = ImageRequest(("a photo of the cat",), steps=2)


def pickled(task, *arguments):
    """`perform` with everything that crosses the border of a process pickled there and back."""
    for event in tasks.perform(*pickle.loads(pickle.dumps((task, *arguments)))):
        yield pickle.loads(pickle.dumps(event))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tasks.Place(str(BUILT_IN), "cpu", "float32", output=tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def entry(place):
    return finish(tasks.outcome(pickled(tasks.erase, place, QUICK)))[0]


@pytest.fixture
def quick_plan(place, entry):
    studio = Studio(device="cpu", dtype="float32", output=place.output)
    plan = studio.plan(entry.name)
    return replace(plan, probes=plan.probes[:1], captions=plan.captions[:4], seeds=plan.seeds[:2], steps=2)


def test_every_task_works_through_pickles(place, entry, quick_plan, tmp_path):
    asked = {
        tasks.load: (),
        tasks.measure: (),
        tasks.erase: (QUICK, {("cat", 1): whole((8, 8))}),
        tasks.masks: (QUICK,),
        tasks.compose: ((entry.path,), (), None, ""),
        tasks.compare: (entry.path, DRAWING),
        tasks.inspect: (entry.path, DRAWING, ("the cat",)),
        tasks.residual: (entry.path, DRAWING),
        tasks.preview: (QUICK, DRAWING),
        tasks.evaluate: ([(entry.path, quick_plan)], None),
        tasks.export: (entry.path, ExportRequest("unet", tmp_path / "cat.safetensors")),
    }
    # A task that is missing here has not been shown to cross the border.
    public = {name: value for name, value in vars(tasks).items() if not name.startswith("_")}
    own = {f for f in public.values() if getattr(f, "__module__", "") == tasks.__name__ and callable(f)}
    kinds = {tasks.Place, tasks.Loaded, tasks.Done, tasks.Failed, tasks.Held}
    assert own - kinds == {*asked, tasks.held, tasks.perform, tasks.outcome, tasks.with_defaults}
    for task, arguments in asked.items():
        direct, events = finish(tasks.outcome(pickled(task, place, *arguments)))
        assert direct is not None and (events or task is tasks.load), task


@pytest.mark.parametrize(
    "error",
    [RecipeError("lora.steps", "Too many."), RecipeError("", "Not JSON."), FileError("No file."), SingularGram("No.")],
)
def test_errors_of_the_user_cross_the_border_whole(error):
    back = pickle.loads(pickle.dumps(tasks.Failed(error))).error
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)


def test_an_error_of_the_user_is_raised_on_the_other_side(place):
    with pytest.raises(FileError, match="no file"):
        finish(tasks.outcome(pickled(tasks.compare, place, place.output / "none.safetensors", DRAWING)))


def test_a_run_that_was_broken_off_says_so(place):
    events = tasks.perform(tasks.preview, place, QUICK, DRAWING)
    cut = (event for event in [next(events)])
    events.close()
    with pytest.raises(tasks.StudioError, match="broken off"):
        finish(tasks.outcome(cut))


def worker(calls, results):
    """A process that a GPU lends itself to: it runs one call after another."""
    torch.set_num_threads(1)
    while (call := calls.get()) is not None:
        for event in tasks.perform(*call):
            results.put(event)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the worker forks a process with threads
def test_two_visitors_of_one_forked_worker(place, entry):
    """Nothing of the work comes back but events and files, and the second visitor finds the first one's file."""
    fork = multiprocessing.get_context("fork")
    calls, results = fork.SimpleQueue(), fork.SimpleQueue()
    before = tasks.held(place).model.checksum()
    process = fork.Process(target=worker, args=(calls, results), daemon=True)
    process.start()

    def perform(*call):
        calls.put(call)
        while True:
            yield (event := results.get())
            if isinstance(event, tasks.Done | tasks.Failed):
                return

    try:
        studio = Studio(device="cpu", dtype="float32", output=place.output, perform=perform)
        made = studio.erase(replace(QUICK, seed=5)).wait()
        pairs = studio.compare(made.name, DRAWING).wait()
        assert made.path.is_file() and pairs[0].change > 0
        assert studio.status().state == "ready" and studio.estimate(QUICK).memory
        assert studio.seconds(studio.plan(made.name)) > 0
        with pytest.raises(FileError, match="made from another"):
            studio.residual(foreign(place, made), DRAWING).wait()
    finally:
        calls.put(None)
        process.join(10)
    assert tasks.held(place).model.checksum() == before


def foreign(place, entry):
    """The name of an erasure of another model."""
    other = replace(erasure.load(entry.path), fingerprint="another")
    erasure.save(other, place.output / "foreign.safetensors")
    return "foreign"


def drawn(place, entry):
    pairs, _ = finish(tasks.outcome(tasks.perform(tasks.compare, place, entry.path, DRAWING)))
    return [side.tobytes() for side in (pairs[0].before, pairs[0].after)]


@pytest.mark.parametrize("stage", ["images", "refine", "lora", "fuse"])
def test_the_next_visitor_of_a_closed_run_gets_the_same_pictures(place, entry, stage):
    first = drawn(place, entry)
    events = tasks.perform(tasks.erase, place, replace(QUICK.with_settings(lora=LoraSettings(steps=50)), seed=6))
    with untouched(tasks.held(place).model):
        next(event for event in events if getattr(event, "stage", "") == stage)
        events.close()
    assert drawn(place, entry) == first


def _swapped(unet):
    for key, weight in projections.read(unet).items():
        module = unet.get_submodule(key.removesuffix(".weight"))
        module.weight = torch.nn.Parameter(weight * 0.5, requires_grad=False)


def _edited(unet):
    next(iter(projections.read(unet).values())).mul_(-1)


def _hooked(unet):
    unet.register_forward_pre_hook(lambda module, args: args)


def _wrapped(unet):
    parent = unet.get_submodule(projections.names(unet)[0].rpartition(".")[0])
    parent.to_k = torch.nn.Sequential(parent.to_k)


@pytest.mark.parametrize("leak", [_swapped, _edited, _hooked, _wrapped])
def test_what_a_killed_run_left_in_the_model_does_not_reach_the_next_visitor(place, entry, leak):
    first, checksum = drawn(place, entry), tasks.held(place).model.checksum()
    leaking = tasks.held(place).model
    leak(leaking.unet)
    assert drawn(place, entry) == first
    assert tasks.held(place).model.checksum() == checksum and tasks.held(place).model is not leaking


def test_another_place_is_another_model(place, other_folder):
    mine, theirs = tasks.held(place), tasks.held(replace(place, source=str(other_folder)))
    assert theirs.model.source == str(other_folder) and theirs.known is not mine.known
    assert tasks.held(replace(place, output=place.output / "elsewhere", source=str(other_folder))) is theirs
