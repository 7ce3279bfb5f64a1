"""Tasks as a GPU worker runs them: forked, used again for the next user, with everything pickled on the way."""

import contextvars
import multiprocessing
import pickle
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from mace_studio import erasure
from mace_studio.core.ridge import SingularGram
from mace_studio.errors import FileError, RecipeError, StudioError
from mace_studio.evaluation.report import Report
from mace_studio.exports.formats import ExportRequest
from mace_studio.masks import full
from mace_studio.methods.mace import MaceSettings
from mace_studio.progress import Cancelled, Progress
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import library, lookup, quota, tasks
from mace_studio.runtime.perform import Done, Failed, Place, outcome, perform
from mace_studio.runtime.studio import Studio
from mace_studio.sd import projections
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import untouched

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
REQUEST = ImageRequest(("a photo of the cat",), steps=2)


def pickled(task, *arguments):
    """`perform` with everything that crosses the border of a process pickled there and back."""
    for event in perform(*pickle.loads(pickle.dumps((task, *arguments)))):
        yield pickle.loads(pickle.dumps(event))


def result(events):
    """What a task returned, and its progress."""
    seen = []
    return outcome(events, seen.append), seen


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(device="cpu", dtype="float32", output=tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def entry(place):
    return result(pickled("erase", place, QUICK))[0]


@pytest.fixture
def quick_plan(place, entry):
    studio = Studio(device="cpu", dtype="float32", output=place.output)
    plan = studio.plan(entry.name)
    return replace(plan, probes=plan.probes[:1], captions=plan.captions[:4], seeds=plan.seeds[:2], steps=2)


def test_every_task_works_through_pickles(place, entry, quick_plan, tmp_path):
    asked = {
        "load": (),
        "measure": (),
        "capacity": (QUICK,),
        "erase": (QUICK, {("cat", 1): full((8, 8))}),
        "masks": (QUICK,),
        "compose": ((entry.path,), (), None, ""),
        "compare": ((entry.path,), REQUEST),
        "inspect": (entry.path, REQUEST, ("the cat",)),
        "residual": (entry.path, REQUEST),
        "preview": (QUICK, REQUEST),
        "evaluate": ([(entry.path, quick_plan)], None),
        "sample": (entry.path, quick_plan, None),
        "export": (entry.path, ExportRequest("unet", tmp_path / "cat.safetensors")),
    }
    assert set(asked) == set(tasks.TASKS)  # what is missing here has not been shown to cross the border
    for task, arguments in asked.items():
        returned, events = result(pickled(task, place, *arguments))
        assert returned is not None and (events or task == "load"), task


def test_every_task_that_may_take_long_is_limited_on_a_shared_server():
    assert set(tasks.TASKS) - set(quota.COUNTS) == {"load", "measure", "capacity", "export"}


@pytest.mark.parametrize(
    "error",
    [RecipeError("lora.steps", "Too many."), RecipeError("", "Not JSON."), FileError("No file."), SingularGram("No.")],
)
def test_errors_of_the_user_cross_the_border_whole(error):
    back = pickle.loads(pickle.dumps(Failed(error))).error
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)


def test_an_error_of_the_user_is_raised_on_the_other_side(place):
    with pytest.raises(FileError, match="no file"):
        result(pickled("compare", place, (place.output / "none.safetensors",), REQUEST))


def test_a_run_that_was_broken_off_says_so(place):
    events = perform("preview", place, QUICK, REQUEST)
    cut = (event for event in [next(events)])
    events.close()
    with pytest.raises(StudioError, match="broken off"):
        result(cut)


def worker(calls, results):
    """A process that a GPU lends itself to: it runs one call after another."""
    torch.set_num_threads(1)
    while (call := calls.get()) is not None:
        for event in perform(*call):
            results.put(event)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the worker forks a process with threads
def test_two_users_of_one_forked_worker(place, entry):
    """Nothing of the work comes back but events and files, and the second user finds the first one's file."""
    fork = multiprocessing.get_context("fork")
    calls, results = fork.SimpleQueue(), fork.SimpleQueue()
    before = tasks.process_model(place).model.checksum()
    process = fork.Process(target=worker, args=(calls, results), daemon=True)
    process.start()

    def elsewhere(*call):
        calls.put(call)
        while True:
            yield (event := results.get())
            if isinstance(event, Done | Failed):
                return

    try:
        studio = Studio(device="cpu", dtype="float32", output=place.output, perform=elsewhere)
        made = studio.erase(replace(QUICK, seed=5)).wait()
        pairs = studio.compare(made.name, REQUEST).wait()
        assert made.path.is_file() and pairs[0].change > 0
        assert studio.status().state == "ready" and studio.estimate(QUICK).memory
        assert studio.seconds(studio.plan(made.name)) > 0
        with pytest.raises(FileError, match="made from another"):
            studio.residual(foreign(place, made), REQUEST).wait()
    finally:
        calls.put(None)
        process.join(10)
    assert tasks.process_model(place).model.checksum() == before


def foreign(place, entry):
    """The name of an erasure of another model."""
    other = replace(erasure.load(entry.path), fingerprint="another", unet="")
    other.save(place.output / "foreign.safetensors")
    return "foreign"


def generated(place, entry):
    pairs, _ = result(perform("compare", place, (entry.path,), REQUEST))
    return [side.tobytes() for side in (pairs[0].before, pairs[0].after)]


@pytest.mark.parametrize("stage", ["images", "refine", "lora", "fuse"])
def test_the_next_user_after_a_closed_run_gets_the_same_images(place, entry, stage):
    first = generated(place, entry)
    events = perform("erase", place, replace(QUICK.with_settings(lora=LoraSettings(steps=50)), seed=6))
    with untouched(tasks.process_model(place).model):
        next(event for event in events if getattr(event, "stage", "") == stage)
        events.close()
    assert generated(place, entry) == first


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
def test_what_a_killed_run_left_in_the_model_does_not_reach_the_next_user(place, entry, leak):
    first, checksum = generated(place, entry), tasks.process_model(place).model.checksum()
    leaking = tasks.process_model(place).model
    leak(leaking.unet)
    assert generated(place, entry) == first
    assert tasks.process_model(place).model.checksum() == checksum and tasks.process_model(place).model is not leaking


def test_another_place_is_another_model(place, other_folder):
    mine, theirs = tasks.process_model(place), tasks.process_model(replace(place, source=str(other_folder)))
    assert theirs.model.source == str(other_folder) and theirs.previews is not mine.previews
    assert tasks.process_model(replace(place, output=place.output / "elsewhere", source=str(other_folder))) is theirs


# The stream: any call, run hand over hand


def stream(monkeypatch, task):
    """The events of a task that takes no arguments beside the place."""
    monkeypatch.setitem(tasks.TASKS, "test", task)
    return perform("test", Place())


def test_the_same_recipe_on_two_models_is_two_files(tmp_path):
    names = []
    for model in ("one", "other", "one", "other"):
        path = erasure.file_in(tmp_path, QUICK, QUICK.digest(), model)
        weights = {"mid_block.x.attn2.to_k.weight": torch.ones(2, 2)}
        erasure.Erasure(recipe=QUICK, weights=weights, fingerprint=model).save(path)
        names.append(path.name)
    assert names[0] == f"cat-{QUICK.digest()}.safetensors" == names[2]
    assert names[1] == names[3] != names[0] and lookup.DIGEST.search(names[1].removesuffix(".safetensors"))
    assert [entry.fingerprint for entry in library.entries(tmp_path)].count("one") == 1
    (tmp_path / names[0]).write_bytes(b"no erasure")
    assert erasure.file_in(tmp_path, QUICK, QUICK.digest(), "other").name == names[0]


def test_a_call_becomes_its_events_and_its_result(monkeypatch):
    def task(place, progress):
        for i in range(3):
            progress(Progress("generate", step=i, total=3))
        return place.device

    *steps, last = stream(monkeypatch, task)
    assert [event.step for event in steps] == [0, 1, 2] and last == Done("auto")


def test_the_call_waits_while_an_event_is_looked_at(monkeypatch):
    log = []

    def task(place, progress):
        for i in range(3):
            log.append(f"task {i}")
            progress(Progress("generate", step=i))

    for event in stream(monkeypatch, task):
        time.sleep(0.02)  # long enough for a task that does not wait
        log.append("end" if isinstance(event, Done) else f"seen {event.step}")
    assert log == ["task 0", "seen 0", "task 1", "seen 1", "task 2", "seen 2", "end"]


def test_closing_raises_in_the_callback_and_waits_for_the_call_to_restore(monkeypatch):
    log = []

    def task(place, progress):
        try:
            while True:
                progress(Progress("generate"))
                log.append("step")
        except Cancelled:
            log.append("cancelled")
            raise
        finally:
            time.sleep(0.05)
            log.append("restored")

    events = stream(monkeypatch, task)
    next(events), next(events)
    events.close()
    assert log == ["step", "cancelled", "restored"]
    assert list(stream(monkeypatch, lambda place, progress: 7)) == [Done(7)]  # the model is free again


def test_an_exception_in_the_listener_cancels_the_call(monkeypatch):
    log = []

    def task(place, progress):
        try:
            progress(Progress("generate"))
        finally:
            log.append("restored")

    def listener(event):
        raise Cancelled

    with pytest.raises(Cancelled):
        outcome(stream(monkeypatch, task), listener)
    assert log == ["restored"]


def test_an_error_of_the_user_is_the_last_event_and_any_other_is_raised(monkeypatch):
    def task(error, place, progress):
        progress(Progress("generate"))
        raise error

    refused = FileError("No file.")
    assert list(stream(monkeypatch, partial(task, refused)))[-1] == Failed(refused)
    with pytest.raises(ZeroDivisionError, match="none of the user's"):
        list(stream(monkeypatch, partial(task, ZeroDivisionError("none of the user's"))))


def test_the_call_has_the_context_of_its_caller(monkeypatch):
    user = contextvars.ContextVar("user", default="nobody")
    user.set("Ada")
    assert list(stream(monkeypatch, lambda place, progress: user.get())) == [Done("Ada")]


def test_scores_that_cannot_be_noted_are_kept_in_the_report_with_a_note(place, entry, quick_plan, monkeypatch):
    found = Report(
        name="a", recipe=QUICK, judge="j", labels=(), plan=None, rows=(), harmonic=(), h_a={}, quality=None,
        detections=None, notes=("first",), model="m", fingerprint="f",
    )  # fmt: skip

    def full(*_):
        raise FileError("No room.")

    monkeypatch.setattr(tasks.Machines, "evaluate", lambda *_: [found])
    monkeypatch.setattr(library, "write_scores", full)
    (noted,) = tasks.evaluate(place, [(entry.path, quick_plan)], None)
    assert noted.notes == ("first", "Its scores are not in the list of erased models: No room.")
