import json
import math
import re
import sqlite3
import threading
import time
import weakref
from dataclasses import replace

import pytest
from PIL import Image
from safetensors import safe_open

from mace_studio.analysis.compare import Pair
from mace_studio.errors import FileError, ModelError, RecipeError, StudioError
from mace_studio.exports.formats import ExportRequest
from mace_studio.methods.mace import MaceSettings
from mace_studio.progress import Progress
from mace_studio.recipe import Concept, ImageRequest, Recipe, joined
from mace_studio.runtime import job_log, library, result_files, tasks, vocabulary
from mace_studio.runtime.estimate import Estimate
from mace_studio.runtime.job_desk import EACH, SURVIVING
from mace_studio.runtime.jobs import CANCELLED
from mace_studio.runtime.library import sources
from mace_studio.runtime.studio import BUILT_IN, BUILT_IN_NAME, PATIENCE, Studio
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

QUICK = Recipe(
    concepts=(Concept("cat", "forest", synonyms=("kitty",)),),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=2),
        images=ImageSettings(per_concept=1, steps=2),
    ),
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return Studio(output=tmp_path_factory.mktemp("output"))


def ended(*jobs):
    """Cancel jobs and wait for their end: a model that is still being loaded would spoil the next test's loading."""
    for job in jobs:
        job.cancel()
    for job in jobs:
        list(job.watch())


@pytest.fixture(scope="module")
def entry(studio):
    job = studio.erase(QUICK)
    assert job.wait() is job.result
    return job.result


def test_the_model_is_loaded_by_the_first_job_that_needs_it(tmp_path):
    fresh = Studio(output=tmp_path)
    assert fresh.status().state == "waiting" and fresh.estimate(QUICK).memory is None
    fresh.load().wait()
    assert fresh.status().state == "ready" and fresh.status().detail == "cpu · float32"
    assert fresh.estimate(QUICK).memory > 20e6


def test_a_model_that_does_not_load_says_why(tmp_path):
    broken = Studio(str(tmp_path), output=tmp_path)
    with pytest.raises(ModelError):
        broken.load().wait()
    assert broken.status().state == "failed" and "diffusers layout" in broken.status().detail


def test_an_erasure_becomes_an_entry(studio, entry):
    assert entry.path.parent == studio.output and entry.name == entry.path.stem == f"cat-{QUICK.digest()}"
    assert entry.recipe == QUICK and entry.size == entry.path.stat().st_size
    assert studio.entries() == [entry] and studio.entry(entry.name) == entry


def test_files_that_are_no_erasures_are_passed_over(studio, entry):
    stray = studio.output / "stray.safetensors"
    stray.write_text("hello")
    try:
        assert studio.entries() == [entry]
        with pytest.raises(FileError, match="not an erasure"):
            studio.entry("stray")
    finally:
        stray.unlink()


@pytest.mark.parametrize("name", ["", "../cat", "cat/dog", "nothing"])
def test_names_stay_inside_the_output_folder(studio, name):
    with pytest.raises(FileError):
        studio.entry(name)


def test_comparing_an_entry(studio, entry):
    pairs = studio.compare(entry.name, ImageRequest(("a cat",), (0, 1), steps=2, guidance=4.0)).wait()
    assert [(p.prompt, p.seed) for p in pairs] == [("a cat", 0), ("a cat", 1)]
    path = result_files.write_pair(pairs[1], studio.output)
    with Image.open(path) as picture:
        assert json.loads(picture.text["mace_studio"])["seed"] == 1


def test_pairs_are_saved_under_what_they_show(studio, tmp_path):
    picture = Image.new("RGB", (2, 2))
    pair = Pair(prompt="a cat, “red” / blue", seed=4, before=picture, after=picture, change=0.0, settings={})
    name = result_files.write_pair(pair, tmp_path).name
    assert re.fullmatch(r"a-cat-red-blue-4-[0-9a-f]{8}\.png", name)


def test_exporting_an_entry(studio, entry, tmp_path):
    packing = ExportRequest("unet", tmp_path / "cat.safetensors")
    result = studio.export(entry.name, packing).wait()
    assert result.path == packing.path and result.size == sum(path.stat().st_size for path in result.files)
    with pytest.raises(FileError, match="exists already"):
        studio.export(entry.name, packing)
    assert studio.entries() == [entry]


def test_an_export_never_takes_the_erasures_own_place(studio, entry):
    before = entry.path.read_bytes()
    with pytest.raises(FileError, match="is the erasure itself"):
        studio.export(entry.name, ExportRequest("lora", studio.output / "." / entry.path.name, overwrite=True))
    with pytest.raises(RecipeError):
        studio.export(entry.name, ExportRequest("onnx", studio.output / "cat.onnx"))
    assert entry.path.read_bytes() == before


@pytest.mark.parametrize(
    "settings, field",
    [
        ({"prompts": (" ",)}, "prompt"),
        ({"seeds": ()}, "seed"),
        ({"seeds": (-1,)}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 1000}, "steps"),
        ({"size": (64, 60)}, "size"),
        ({"guidance": float("nan")}, "guidance"),
    ],
)
def test_bad_settings_of_a_comparison_are_refused_at_once(studio, entry, settings, field):
    with pytest.raises(RecipeError) as error:
        studio.compare(entry.name, replace(ImageRequest(("a cat",)), **settings))
    assert error.value.field == field


def test_a_bad_recipe_is_refused_at_once(studio):
    with pytest.raises(RecipeError):
        studio.erase(replace(QUICK, concepts=()))


def test_a_cancelled_erasure_leaves_no_file(studio):
    job = studio.erase(replace(QUICK.with_settings(lora=LoraSettings(steps=5_000)), name="never"))
    for event in job.watch():
        if event is not None and event.stage == "lora":
            job.cancel()
    assert job.state == CANCELLED
    assert not list(studio.output.glob("never*")) and not list(studio.output.glob(".*"))


def test_the_estimate_counts_forwards_and_sentences(studio):
    """One concept, 30 templates twice, one phrase kept; one image of 2 steps with guidance, 2 LoRA steps."""
    estimate = studio.estimate(QUICK)
    assert (estimate.concepts, estimate.prompts, estimate.unet_forwards) == (1, 30 * 3, 1 * 2 * 2 + 2)
    refined_only = studio.estimate(QUICK.with_settings(lora=LoraSettings(steps=0)))
    assert refined_only.unet_forwards == 0


def test_the_forwards_of_the_estimate_are_those_of_a_run(studio, entry, monkeypatch):
    samples = []
    unet = tasks.process_model(studio.place).model.unet
    forward = unet.forward

    def counted(sample, *rest, **named):
        samples.append(len(sample))
        return forward(sample, *rest, **named)

    monkeypatch.setattr(unet, "forward", counted)
    fresh = replace(QUICK, seed=77, concepts=(*QUICK.concepts, Concept("ship", "ground")))
    studio.erase(fresh).wait()
    assert sum(samples) == studio.estimate(fresh).unet_forwards


def test_a_recipe_file_reads_back(entry):
    path = library.write_recipe(entry)
    assert Recipe.from_json(path.read_text(encoding="utf-8")) == QUICK


def test_tokens_of_any_text_are_counted_at_once(studio, entry):
    """A megabyte took six seconds."""
    assert studio.token_counts(["a cat"])[0][:2] == (4, 32)
    begun = time.process_time()
    ((count, most, rest),) = studio.token_counts(["a " * 500_000])
    assert count > most == 32 and rest and time.process_time() - begun < 0.5
    assert len(studio.token_counts(["a"] * 2000)) == 1000


def test_the_built_in_model_is_small():
    assert sum(path.stat().st_size for path in BUILT_IN.rglob("*")) < 40e6


# Composing, and another base model


SHIP = replace(QUICK, concepts=(Concept("ship", "ground"),), preserve=())


def test_a_clip_beside_a_model_looks_at_an_erasure(tmp_path, clip_folder):
    (tmp_path / "any").symlink_to(BUILT_IN)
    with_clip = Studio(str(tmp_path / "any"), output=tmp_path / "output")
    assert vocabulary.clip_beside(with_clip.source) is None and with_clip.vocabulary() is None
    (tmp_path / "clip").symlink_to(clip_folder)
    made = with_clip.erase(QUICK).wait()
    seen = with_clip.sample(
        made.name, words=1, beyond=2, pairs=3, judge=vocabulary.clip_beside(with_clip.source)
    ).wait()
    assert seen.judge == "zero-shot CLIP, clip"
    assert (seen.rows[0].role, seen.rows[0].word) == ("erased", "cat")
    assert 0 < seen.rows[0].before.probability < 1


def test_composing_entries(studio, entry):
    ship = studio.erase(SHIP).wait()
    both = studio.compose([entry, ship]).wait()
    recipe = joined([QUICK, SHIP])
    assert both.recipe == recipe and both.composable and both.name.startswith("cat-ship-") and both.warnings
    at_once = studio.erase(recipe).wait()
    assert at_once.name != both.name and at_once.path.read_bytes() != both.path.read_bytes()
    assert studio.compose([both], remove=["ship"], name="Only cats").wait().recipe.concepts == QUICK.concepts
    for made in studio.entries():
        if made != entry:
            made.path.unlink()


def test_what_cannot_be_composed_is_refused_at_once(studio, entry):
    with pytest.raises(RecipeError, match="erased in two"):
        studio.compose([entry, entry])


def test_composing_nothing_new_writes_the_very_file(studio, entry):
    before = entry.path.read_bytes()
    assert studio.compose([entry]).wait().name == entry.name
    assert entry.path.read_bytes() == before and studio.entries()[0].name == entry.name


def test_an_export_holds_no_loras(studio, entry, tmp_path):
    path = studio.export(entry.name, ExportRequest("unet", tmp_path / "unet.safetensors")).wait().path
    with safe_open(path, "numpy") as exported, safe_open(entry.path, "numpy") as own:
        loras = {key for key in own.keys() if key.startswith("lora.")}  # noqa: SIM118 - not a mapping
        assert set(exported.keys()) == set(own.keys()) - loras and len(loras) == 2 * len(exported.keys())


def test_another_base_model_takes_the_place_of_the_first(tmp_path, other_folder):
    changing = Studio(output=tmp_path)
    cat = changing.erase(QUICK).wait()
    first = weakref.ref(tasks.process_model(changing.place).model)
    before, after = (
        changing.compare(cat.name, ImageRequest(("a cat",), (0,), steps=1)),
        changing.change(f" {other_folder} "),
    )
    later = changing.compare(cat.name, ImageRequest(("a cat",), (0,), steps=1))
    assert len(before.wait()) == 1  # queued before, it ran with the model of then
    after.wait()
    assert first() is None
    assert changing.status().name == "other" and changing.status().state == "ready"
    assert changing.status().fingerprint != cat.fingerprint and changing.status().memory < 20e6
    with pytest.raises(FileError, match="another model"):
        later.wait()
    assert sources(tmp_path) == [str(other_folder)]
    changing.change(BUILT_IN_NAME).wait()
    assert changing.status().fingerprint == cat.fingerprint
    assert changing.source == str(BUILT_IN) and sources(tmp_path) == [str(other_folder)]


@pytest.mark.parametrize(
    ("source", "how", "said"), [("/nowhere", (), "no folder “/nowhere”"), (str(BUILT_IN), ("cpu", "int8"), "“int8”")]
)
def test_a_base_model_that_does_not_load_leaves_the_one_before(tmp_path, source, how, said):
    changing = Studio(output=tmp_path)
    changing.load().wait()
    before = changing.status()
    with pytest.raises(RecipeError) as error:
        changing.change(source, *how).wait()
    assert error.value.field == "source" and said in str(error.value)
    assert changing.status() == before and changing.source == str(BUILT_IN)
    assert sources(tmp_path) == []


def test_a_fixed_studio_keeps_its_model(tmp_path):
    with pytest.raises(RecipeError, match="many users"):
        Studio(output=tmp_path, fixed=True).change("other")


# A studio that many users share


def test_only_a_studio_that_users_share_is_bounded(tmp_path):
    with pytest.raises(RecipeError, match="60 s are lent"):
        Studio(output=tmp_path, fixed=True).erase(QUICK.with_settings(lora=LoraSettings(steps=5000)))
    ended(Studio(output=tmp_path).erase(QUICK.with_settings(lora=LoraSettings(steps=5000))))


def test_each_user_has_a_folder_beside_what_all_see(tmp_path):
    asking = "ann"
    studio = Studio(output=tmp_path, fixed=True, user=lambda: asking)
    quick = QUICK.with_settings(lora=LoraSettings(steps=0))
    everyones = Studio(output=tmp_path).erase(quick).wait()
    assert studio.entries() == [everyones]
    anns = studio.erase(replace(quick, name="anns")).wait()
    assert anns.path.parent == studio.output == tmp_path / "users" / "ann"
    assert [e.name for e in studio.entries()] == [anns.name, everyones.name]
    assert studio.entry(anns.name) == anns and studio.entry(everyones.name) == everyones
    job = studio.erase(replace(quick, name="anns too"))
    asking = "bob"
    assert job.wait().path.parent == tmp_path / "users" / "ann"
    assert studio.entries() == [everyones]
    with pytest.raises(FileError, match="no erased model"):
        studio.entry(anns.name)
    with pytest.raises(FileError):
        studio.entry(f"../ann/{anns.name}")


# Jobs that a kill broke off


def broken_off(folder):
    """Make the job that was written down last look as if its process had been killed while it ran."""
    with sqlite3.connect(folder / "jobs" / job_log.NAME) as table:
        table.execute("UPDATE jobs SET state = 'running', owner = 'gone' WHERE queued = (SELECT max(queued) FROM jobs)")


def test_an_erasure_that_was_broken_off_goes_on_under_its_id_and_gives_the_same_file(studio, entry):
    before = entry.path.read_bytes()
    assert studio.interrupted() == []
    job = studio.erase(QUICK)
    job.wait()
    broken_off(studio.output)
    entry.path.unlink()
    after = Studio(output=studio.output)
    (found,) = after.interrupted()
    assert (found.title, found.state) == ("Erase cat", "running")
    resumed = after.resume(found)
    assert resumed.wait().path.read_bytes() == before
    assert resumed.id == job.id and after.job(job.id) is resumed and after.interrupted() == []
    with pytest.raises(StudioError, match="elsewhere already"):
        after.resume(found)


def test_any_job_that_was_broken_off_goes_on(studio, entry):
    request = ImageRequest(("a cat",), (3,), steps=2, size=(64, 64))
    pairs = studio.compare(entry.name, request).wait()
    broken_off(studio.output)
    after = Studio(output=studio.output)
    (found,) = after.interrupted()
    (pair,) = after.resume(found).wait()
    assert (pair.prompt, pair.seed, pair.after.tobytes()) == ("a cat", 3, pairs[0].after.tobytes())


def test_an_export_and_a_look_at_few_images_go_on(studio, entry, tmp_path):
    request = ExportRequest("unet", tmp_path / "cat.safetensors")
    before = studio.export(entry.name, request).wait().path.read_bytes()
    request.path.unlink()
    request.path.with_suffix(".md").unlink()
    broken_off(studio.output)
    after = Studio(output=studio.output)
    (found,) = after.interrupted()
    assert after.resume(found).wait().path.read_bytes() == before
    after.sample(entry.name, words=1, beyond=0, pairs=1).cancel()
    broken_off(studio.output)
    (found,) = Studio(output=studio.output).interrupted()
    assert (found.method, found.arguments) == ("sample", (entry.name, 1, 0, 1, None))
    after.forget(found)


def test_more_erasures_at_once_than_fit_are_refused(studio, entry):
    with pytest.raises(RecipeError, match="51 erasures are too many"):
        studio.compare(entry.name, ImageRequest(("a cat",)), [entry.name] * 50)
    with pytest.raises(RecipeError, match="60 erasures are too many"):
        studio.compose([entry] * 60)


def test_jobs_of_every_kind_come_back_as_they_were_asked_for(studio, entry):
    one = ImageRequest(("a cat",), (3,), steps=2, guidance=2.0, negative="x", size=(64, 72))
    dog = replace(QUICK, concepts=(Concept("dog", "sky"),), preserve=())
    jobs = [
        studio.erase(dog, watched=False), studio.masks(QUICK), studio.compose([entry], add=dog, name="two"),
        studio.compare(entry.name, replace(one, seeds=(1, 2)), [entry.name]), studio.inspect(None, one, ("a cat",)),
        studio.inspect(entry.path, one), studio.residual(entry.name, one), studio.preview(QUICK, one),
        studio.evaluate([entry.name, entry.path], "full", None, 7), studio.sample(entry.name, 1, 0, 1),
        studio.export(entry.name, ExportRequest("lora", studio.output / "e.safetensors", energy=0.5)),
    ]  # fmt: skip
    ended(*jobs)
    with sqlite3.connect(studio.output / "jobs" / job_log.NAME) as table:
        owned = [(job.id,) for job in jobs]
        table.executemany("UPDATE jobs SET state = 'queued', owner = 'gone' WHERE id = ?", owned)
    after = Studio(output=studio.output)
    found = after.interrupted()
    assert {one.method for one in found} == set(SURVIVING)
    again = [after.resume(one) for one in found]
    ended(*again)
    assert [(job.id, job.title, job.request) for job in again] == [(job.id, job.title, job.request) for job in jobs]


def test_a_job_that_cannot_go_on_says_why_and_stays_listed(studio, entry, tmp_path):
    studio.compare(entry.name, ImageRequest(("a cat",), steps=2)).wait()
    broken_off(studio.output)
    elsewhere = Studio(str(tmp_path), output=studio.output)
    (found,) = elsewhere.interrupted()
    with pytest.raises(StudioError, match="by another version"):
        studio.resume(replace(found, method="delete"))
    with pytest.raises(StudioError, match="was for the model"):
        elsewhere.resume(found)
    after = Studio(output=studio.output)
    moved = entry.path.rename(entry.path.with_suffix(".moved"))
    with pytest.raises(FileError, match="no erased model"):
        after.resume(found)
    moved.rename(entry.path)
    assert [one.id for one in after.interrupted()] == [found.id]
    after.forget(found)
    assert after.interrupted() == []


def test_a_failed_job_of_a_shared_studio_tells_no_folder(entry, tmp_path):
    shared = Studio(output=tmp_path / "output", fixed=True, user=lambda: "ada")
    (shared.output / "exports").parent.mkdir(parents=True)
    (shared.output / "exports").write_text("in the way")
    request = ExportRequest("unet", shared.output / "exports" / "cat.safetensors")
    job = shared.export(entry.path, request)
    with pytest.raises(FileError, match=r"^cat\.safetensors could not be written: .*Choose another folder"):
        job.wait()
    broken = Studio(str(tmp_path / "none"), output=tmp_path, fixed=True)
    with pytest.raises(ModelError) as refused:
        broken.load().wait()
    assert str(tmp_path) not in str(refused.value) + broken.status().detail and broken.status().state == "failed"


def test_the_wait_is_what_the_jobs_before_have_left(tmp_path, monkeypatch):
    """A quarter took 10 s, so 30 s are left of the first; the second is estimated with 7 s."""
    studio, go_on = Studio(output=tmp_path), threading.Event()
    assert studio.wait() == (0, 0)

    def work(place, recipe, user_masks, progress):
        progress(Progress("lora", fraction=0.25, seconds=10.0))
        go_on.wait(60)

    monkeypatch.setitem(tasks.TASKS, "erase", work)
    first = studio.erase(QUICK)
    assert any(event and event.stage == "lora" for event in first.watch()) and studio.wait() == (1, 30)
    second = studio.erase(QUICK)
    assert studio.wait() == (2, None)  # the model is not timed
    monkeypatch.setattr(Studio, "timed", True)
    monkeypatch.setattr(
        Studio,
        "estimate",
        lambda self, recipe: Estimate(concepts=1, prompts=1, unet_forwards=1, memory=None, seconds=7.0),
    )
    assert studio.wait() == (2, 37)
    studio.load()
    assert studio.wait() == (2, 37)
    go_on.set()
    first.wait(), second.wait()


def test_no_title_of_a_job_tells_where_the_model_lies(tmp_path):
    shared = Studio(str(tmp_path / "models" / "sd"), output=tmp_path / "output", fixed=True, user=lambda: "ada")
    job = shared.inspect(None, ImageRequest(("a cat",)))
    assert job.title == "Inspect sd"
    ended(job)


def test_a_shared_studio_writes_no_jobs_down(tmp_path):
    shared = Studio(output=tmp_path, fixed=True)
    ended(shared.erase(QUICK))
    assert shared.interrupted() == [] and not (tmp_path / "jobs").exists()


def test_a_user_of_a_shared_studio_sees_only_their_own_jobs(tmp_path):
    who = "ada"
    shared = Studio(output=tmp_path, fixed=True, user=lambda: who)
    mine = shared.erase(QUICK)
    who = "bob"
    assert shared.jobs() == []
    other = shared.erase(QUICK)
    assert shared.jobs() == [other]
    who = "ada"
    assert shared.jobs() == [mine]
    ended(mine, other)


def test_one_user_s_jobs_are_bounded_where_many_share_the_studio(tmp_path):
    shared = Studio(output=tmp_path, fixed=True, user=lambda: "ada")
    jobs = [shared.erase(QUICK) for _ in range(EACH)]
    with pytest.raises(StudioError, match=f"{EACH} of your jobs"):
        shared.erase(QUICK)
    ended(*jobs)


def test_what_waits_unwatched_goes_on_on_one_s_own_machine_only(tmp_path):
    shared, own = Studio(output=tmp_path / "shared", fixed=True), Studio(output=tmp_path / "own")
    jobs = [studio.erase(QUICK, watched=watched) for studio in (shared, own) for watched in (True, False)]
    assert [job.patience for job in jobs] == [PATIENCE, PATIENCE, PATIENCE, math.inf]
    ended(*jobs)
