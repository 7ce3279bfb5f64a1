"""The presets of the built-in model, run as they are.

`pytest -m slow -s tests/slow/test_presets.py` prints how long each stage takes, and how much the images of twenty
erased, synonym and kept prompts change.
"""

from statistics import mean

import pytest

from mace_studio.presets import presets
from mace_studio.recipe import ImageRequest
from mace_studio.runtime.studio import Studio

FORMS = ("a photo of the {}", "a photo of a {}", "the {}", "a {}", "an image of a {}", "a picture of the {}")
PLACES = ("", " in the snow", " on the grass", " in the street")
PRESETS = {p.name: p.recipe for p in presets() if p.name.startswith("miniature/")}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    made = Studio(output=tmp_path_factory.mktemp("output"))
    made.load().wait()
    return made


def twenty(phrases):
    """Twenty different prompts about the phrases, and a seed for each."""
    every = [form.format(phrase) + place for place in PLACES for form in FORMS for phrase in phrases]
    return every[:: max(1, len(every) // 20)][:20]


def stage_seconds(job):
    seconds, before = {}, 0.0
    for event in job.events:
        seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds - before
        before = event.seconds
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_runs_in_its_time(studio, name):
    job = studio.erase(PRESETS[name])
    job.wait()
    seconds = stage_seconds(job)
    rounded = ", ".join(f"{stage} {s:.1f} s" for stage, s in seconds.items())
    print(f"\n{name}: {len(PRESETS[name].concepts)} concepts, {rounded}; together {sum(seconds.values()):.1f} s")
    assert sum(seconds.values()) < (60 if len(PRESETS[name].concepts) == 1 else 240)


@pytest.mark.slow
def test_erased_prompts_change_and_kept_ones_hardly_do(studio):
    recipe = PRESETS["miniature/cat"]
    entry = studio.erase(recipe).wait()
    roles = {"erased": ["cat"], "synonym": list(recipe.concepts[0].synonyms), "kept": list(recipe.preserve)}
    changes = {}
    for role, phrases in roles.items():
        prompts = twenty(phrases)
        assert len(set(prompts)) == 20
        pairs = studio.compare(entry.name, ImageRequest(tuple(prompts), (0,), guidance=4.0)).wait()
        changes[role] = mean(p.change for p in pairs)
        print(f"\n{role:8} mean pixel change {changes[role]:.1f} of 255 over {len(pairs)} prompts, seed 0")
    assert changes["erased"] > 5 * changes["kept"]
