from datetime import datetime
from pathlib import Path

from PIL import Image

from mace_studio.progress import Progress
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.library import Entry
from mace_studio.ui.components import job_list, progress


def running(*events):
    """A job that has come so far."""
    job = Job("a job")
    job.events = list(events)
    return job


def told(warning, recipe):
    """What the page shows of an erasure with one warning."""
    return progress.summary(
        Entry(
            name="x",
            path=Path("x"),
            recipe=recipe,
            made=datetime(2020, 3, 1),
            size=1,
            conditions={},
            warnings=(warning,),
        )
    )


def test_time_left_goes_by_the_pace_of_the_stage():
    """Images came from the cache in no time; the LoRA took 10 s for 20 % of the job, so 40 % more take 20 s."""
    images = [Progress("images", fraction=0.4, seconds=0.1)]
    training = [Progress("lora", fraction=0.4, seconds=0.2), Progress("lora", fraction=0.6, seconds=10.2)]
    assert "<span>about 20 s left</span>" in progress.work(running(*images, *training), None)
    assert "left" not in progress.work(running(*images), None)


def test_a_job_that_told_of_no_step_is_finished_in_whole():
    job = running()
    job.state = DONE
    assert "<b>100 %</b>" in progress.work(job, None)


def test_a_warning_about_one_of_several_concepts_says_its_row():
    recipe = Recipe(concepts=(Concept("cat", "sky"), Concept("dog", "sea")))
    said = "In 3 of 4 training images of “dog” no part stood out."
    assert f">Row 2: {said}<" in told(said, recipe)
    for other in ("General.", "“cat” and “dog” are alike.", "The model has not learned “dog” (row 2): leave it out."):
        assert f">{other}<" in told(other, recipe)
    assert f">{said}<" in told(said, Recipe(concepts=recipe.concepts[1:]))


def test_the_wait_before_a_new_erasure_is_a_sentence():
    assert job_list.wait(0, 0.0) == ""
    assert "A new erasure waits for 1 job and begins in about 1 min 40 s." in job_list.wait(1, 100.0)
    assert "A new erasure waits for 2 jobs." in job_list.wait(2, None)
    assert "A new erasure waits for 1 job." in job_list.wait(1, 0.2)  # it has run over its estimate


def test_training_images_are_shown_while_the_others_are_generated():
    image = Image.new("RGB", (8, 8), "teal")
    events = [Progress("images", "<b>", step=i, total=9, result=image) for i in range(9)]
    shown = progress.work(running(*events, Progress("lora", "<b>", result=image)), None)
    assert shown.count("<img src=") == progress.SHOWN and 'alt="Training image of &lt;b&gt;"' in shown
    assert "<img" not in progress.work(running(Progress("images")), None)
