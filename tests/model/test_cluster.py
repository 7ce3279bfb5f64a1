"""An erasure and an evaluation on a real Ray cluster of this machine, while a machine is added or a worker killed.

File and reports are the same as those of one process.
"""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mace_studio import presets
from mace_studio.cluster.erase import blocks
from mace_studio.cluster.erase import erase as erase_on_cluster
from mace_studio.cluster.evaluate import evaluate as evaluate_on_cluster
from mace_studio.cluster.worker import Asked, Worker
from mace_studio.erasure import Erasure
from mace_studio.errors import ModelError, RecipeError, StudioError
from mace_studio.evaluation import plan, study
from mace_studio.evaluation.evaluate import Case, evaluate
from mace_studio.evaluation.plan import ERASED, make_plan
from mace_studio.evaluation.report import ALL
from mace_studio.methods.mace import refine
from mace_studio.methods.mace.erase import erase
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.machines import Machines as RunOn
from mace_studio.sd import judges, projections
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import cancelled

try:
    import ray
    from ray.cluster_utils import Cluster as Machines
except ImportError:
    ray = None

# Under CI=true it is a failure: the tests would be skipped there for ever, and nobody would see it.
needs_ray = pytest.mark.skipif(
    ray is None and os.environ.get("CI") != "true", reason="ray is not installed: pip install -e '.[cluster]'"
)
STORE = 150 * 2**20


def twelve_people() -> Recipe:
    """Of the preset of 100, with so few steps that the way of it is most of the work; six blocks of two.

    The LoRAs act at own tokens, which depend on the kept people: these share their first names with erased ones.
    """
    recipe = next(preset.recipe for preset in presets.presets() if preset.name == "miniature/people-100")
    keep, concepts = KeepWeights(general=0.0, preserve=1.0), recipe.concepts[:12]
    first = {concept.phrase.split()[0] for concept in concepts}
    kept = [name for name in recipe.preserve if name.split()[0] in first]
    return replace(recipe, concepts=concepts, preserve=kept[:2]).with_settings(
        refine=keep,
        fuse=keep,
        images=ImageSettings(per_concept=4, steps=2, guidance=4.0),
        lora=LoraSettings(steps=4, learning_rate=1e-3, own_tokens=True),
        concepts_at_once=2,
    )


def case_of(model, name: str, share: float) -> Case:
    """Three words of a batch and one image more, and captions that are two pieces of work; weights made smaller."""
    recipe = Recipe(concepts=[Concept("cat", "forest", synonyms=["kitty"])], preserve=["dog"])
    weights = {key: share * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    erasure = Erasure(recipe=recipe, weights=weights, fingerprint=model.fingerprint, unet=model.unet_fingerprint)
    captions = [f"a ship and {count} dogs" for count in range(33)]
    plan = replace(make_plan(recipe, "quick", steps=2, captions=captions), seeds=tuple(range(9)))
    assert len(plan.probes) == 3 and len(plan.captions) == 33 and model.batches.size == 8
    return Case(name, erasure, plan)


def worker_processes() -> set[int]:
    """Processes that Ray has named after the class."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name = (folder / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if name.startswith(b"ray::Worker"):
                found.add(int(folder.name))
    return found


@pytest.fixture(scope="module")
def machines():
    """A cluster of one machine with room for one worker; a test may add another."""
    assert ray is not None, "ray belongs to the dev requirements and must be there under CI=true"
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # The workers do not share this process's settings of pytest; they must find the package of this checkout.
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    patch.setenv("OMP_NUM_THREADS", "1")
    small = {"object_store_memory": STORE, "include_dashboard": False}
    found = Machines(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    ray.init(found.address, log_to_driver=False, logging_level="WARNING")
    yield found
    ray.shutdown()
    found.shutdown()
    patch.undo()


@pytest.fixture
def one_thread():

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker takes as many cores as this process has threads
    yield
    torch.set_num_threads(before)


# With the one worker that there is room for at first


@needs_ray
def test_an_error_of_a_worker_is_the_sentence_that_it_raised(model, machines, one_thread, monkeypatch, tmp_path):
    other = replace(Asked.of(model, None), fingerprint="0" * 64)
    monkeypatch.setattr(Asked, "of", lambda *_: other)
    with pytest.raises(ModelError, match="another model"):
        erase_on_cluster(model, twelve_people(), cache=tmp_path)


@pytest.mark.slow
@needs_ray
def test_a_cancelled_evaluation_ends_its_workers_and_goes_on_where_it_was(model, machines, one_thread, tmp_path):
    case, earlier = case_of(model, "first", 0.5), worker_processes()
    with cancelled(lambda event: event.result) as progress:
        evaluate_on_cluster(model, [case], cache=tmp_path, progress=progress)
    latest = time.monotonic() + 30
    while worker_processes() - earlier and time.monotonic() < latest:
        time.sleep(0.1)
    assert not worker_processes() - earlier
    images = {path: path.stat().st_mtime_ns for path in tmp_path.glob("images/*/*.png")}
    assert 18 <= len(images) < case.plan.images
    (found,) = evaluate_on_cluster(model, [case], cache=tmp_path)
    assert all(path.stat().st_mtime_ns == written for path, written in images.items())  # not generated again
    assert found.pooled(ERASED).after.count == 9 and found.quality.count == 33


@pytest.mark.slow
@needs_ray
def test_a_study_on_the_cluster_has_the_files_and_reports_of_one_process(machines, one_thread, monkeypatch, tmp_path):
    few = replace(twelve_people(), concepts=twelve_people().concepts[:1], preserve=twelve_people().preserve[:1])
    rows, on_ray = [study.Case("MACE", few)], RunOn("auto")
    monkeypatch.setitem(plan.CAPTIONS, "quick", 2)
    monkeypatch.setitem(plan.IMAGES, "quick", 2)
    monkeypatch.setattr(study, "STEPS", 2)
    here = study.run(rows, "quick", tmp_path / "here")
    there = study.run(rows, "quick", tmp_path / "there", erase=on_ray.erase, evaluate=on_ray.evaluate)
    assert there[0].problem == "" and there[0].report == here[0].report
    (own,), (other,) = ((tmp_path / side).glob("*.safetensors") for side in ("here", "there"))
    assert own.read_bytes() == other.read_bytes()


# With two


@needs_ray
def test_a_cancelled_run_goes_on_with_a_machine_more_and_a_worker_killed_and_the_bytes_are_those_of_one_process(
    model, machines, one_thread, tmp_path
):
    recipe, seen, killed, earlier = twelve_people(), [], [], worker_processes()
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    # A mask by hand changes what one of the workers does, and the warnings.
    masks = {(recipe.concepts[-1].phrase, 1): Image.new("L", (8, 8), 255)}
    erase(model, recipe, cache=tmp_path / "a", user_masks=masks).save(one)
    stored = tmp_path / "b" / "loras"

    def stop(event):
        # Of three of them, in batches of two, two are of one batch; a batch that is not whole is trained again.
        if event.stage == "lora" and len(list(stored.glob("*.safetensors"))) >= 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        erase_on_cluster(model, recipe, stop, cache=tmp_path / "b", user_masks=masks)
    loras = {path: path.stat().st_mtime_ns for path in stored.glob("*.safetensors")}
    assert 3 <= len(loras) < 12

    def interfere(event):
        if event.stage == "refine" and not seen:
            machines.add_node(num_cpus=1, object_store_memory=STORE)
        seen.append(event)
        if event.stage == "lora" and event.step >= len(loras) + 1 and not killed:
            killed.append(min(worker_processes() - earlier))
            os.kill(killed[0], signal.SIGKILL)

    made = erase_on_cluster(model, recipe, interfere, cache=tmp_path / "b", user_masks=masks)
    made.save(other)
    assert sum(path.stat().st_mtime_ns == written for path, written in loras.items()) >= 2  # not trained again
    written = list(stored.glob("*.safetensors"))  # beside what a worker that was ended had begun
    assert len(written) == len(made.loras) == 12
    assert made.spent.seconds > 0 and (made.spent.where, made.spent.memory) == ("a Ray cluster", None)
    assert other.read_bytes() == one.read_bytes()
    assert killed
    assert any("2 workers" in event.concept for event in seen)
    fractions = [event.fraction for event in seen]
    assert fractions[-1] == 1.0 and all(0 <= fraction <= 1 for fraction in fractions)
    assert {event.stage for event in seen} == {"refine", "lora", "fuse"}


@needs_ray
def test_reports_are_those_of_one_process_also_where_a_worker_is_killed(model, machines, one_thread):
    case, other = case_of(model, "first", 0.5), case_of(model, "second", 0.9)
    cases = [case, replace(other, plan=replace(other.plan, probes=other.plan.probes[:1], captions=()))]
    expected = evaluate(model, cases, judges.of(model))
    if ray.cluster_resources()["CPU"] < 2:
        machines.add_node(num_cpus=1, object_store_memory=STORE)
    seen, killed, earlier = [], [], worker_processes()

    def interfere(event):
        seen.append(event)
        if event.result and not killed:
            killed.append(min(worker_processes() - earlier))
            os.kill(killed[0], signal.SIGKILL)

    reports = evaluate_on_cluster(model, cases, progress=interfere)
    assert reports == expected
    assert [len(row.images) for row in reports[0].rows] == [8, 0, 8, 0, 8, 0]
    assert killed and {event.stage for event in seen} == {"generate"}
    assert any(event.concept.endswith("2 workers") for event in seen)
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    told = {(event.result[0], event.result[1].word): event.result[1] for event in seen if event.result}
    assert told == {(one.name, row.word): row for one in expected for row in one.rows if row.word != ALL}


# Without a cluster


def test_where_ray_is_missing_a_sentence_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(StudioError, match=r"pip install 'mace-studio\[cluster\]'"):
        erase_on_cluster(model, twelve_people())


def test_other_methods_are_refused(model):
    with pytest.raises(RecipeError, match="method: Only MACE"):
        erase_on_cluster(model, replace(twelve_people(), method="uce", settings=None))


@pytest.mark.parametrize(
    ("each", "at_once", "images", "size"), [(8, 4, 8, 4), (4, 2, 8, 2), (1, 4, 8, 8), (3, 4, 8, 8), (8, 1, 8, 1)]
)
def test_blocks_end_where_the_batches_of_one_machine_end(each, at_once, images, size):
    concepts = [Concept(f"thing {i}", "sky") for i in range(size + 1)]
    recipe = Recipe(concepts=concepts, preserve=["dog"])
    recipe = recipe.with_settings(images=ImageSettings(per_concept=each), concepts_at_once=at_once)
    cut = blocks(recipe, images)
    assert [len(block.concepts) for block in cut] == [size, 1]
    assert [concept for block in cut for concept in block.concepts] == concepts
    assert size * each % images == 0 and size % at_once == 0
    assert all(block.preserve == recipe.preserve for block in cut)  # own tokens depend on it


def test_parts_of_the_sums_have_one_mapping_and_eight_concepts_at_the_most():
    people = [Concept(f"person {i}", "a person") for i in range(10)]
    recipe = Recipe(concepts=[*people[:5], Concept("cat", "sky"), *people[5:]])
    assert [len(part) for part in refine.parts(recipe)] == [8, 2, 1]
    assert all(len({concept.mapping for concept in part}) == 1 for part in refine.parts(recipe))


def test_a_worker_refuses_another_version(model):
    with pytest.raises(ModelError, match=r"needed; install the same version"):
        Worker(replace(Asked.of(model, None), version="0.0")).sums(0, (Concept("cat", "sky"),))


def test_a_worker_refuses_another_judge(model):
    case = case_of(model, "first", 0.5)
    with pytest.raises(ModelError, match="another judge or CLIP than built-in judge"):
        Worker(replace(Asked.of(model, None), judged_by="0" * 64)).judged(0, case, case.plan)
