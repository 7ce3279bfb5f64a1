"""What a user reads when something goes wrong, and what they do not."""

import gradio as gr
import pytest

from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import LoraSettings
from mace_studio.ui import notices
from mace_studio.ui.tabs import compare


def failing(error):
    @notices.readable
    def on_button():
        raise error

    return on_button


def failing_stream(error):
    @notices.readable
    def on_button():
        yield 1
        raise error

    return lambda: list(on_button())


@pytest.mark.parametrize("make", [failing, failing_stream])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileError("Choose another folder."), "Choose another folder."),
        (RecipeError("lora.t1", "Too high."), "t₁: Too high."),
        (RecipeError("", "Not a recipe."), "Not a recipe."),
        (ValueError("/secret/path broke"), notices.UNEXPECTED),
        (gr.Error("Said before."), "Said before."),
    ],
)
def test_every_failure_is_a_sentence_and_no_detail_leaks(make, error, said):
    with pytest.raises(gr.Error) as caught:
        make(error)()
    assert caught.value.message == said


def test_an_unforeseen_failure_is_in_the_log(caplog):
    with pytest.raises(gr.Error):
        failing(ValueError("/secret/path broke"))()
    assert "/secret/path broke" in caplog.text


@pytest.mark.parametrize(
    ("path", "said", "target"),
    [
        ("concepts[2].mapping", "Row 3: Bad.", '#concepts [data-cell="2-1"]'),
        ("concepts[0].phrase", "Bad.", '#concepts [data-cell="0-0"]'),
        ("concepts[0]", "Row 1: Bad.", '#concepts [data-cell="0-0"]'),
        ("concepts", "Concepts: Bad.", "#add-concept"),
        ("preserve[1]", "Keep unchanged: Bad.", "#preserve input"),
        ("fuse.general", "λ2: Bad.", "#lambda2 input, #mace-free-fuse-general input"),
        ("lora.stepps", "lora.stepps: Bad.", ""),
    ],
)
def test_a_problem_is_told_in_the_users_words(path, said, target):
    assert notices.problem(RecipeError(path, "Bad.")) == {"text": said, "target": target}


def test_a_problem_of_the_compare_tab_points_to_its_control():
    found = notices.problem(RecipeError("seed", "Bad."), compare.PLACES)
    assert found == {"text": "Seeds: Bad.", "target": "#seeds input"}


def test_what_the_host_says_of_its_gpu_reaches_the_user():
    said = "You have exceeded your GPU quota (60s requested vs. 12s left)."
    assert notices.sentence(gr.Error(said)) == said
    assert notices.sentence(RuntimeError("/home/user/secret")) == notices.UNEXPECTED


def test_a_message_repeats_at_most_eighty_characters_of_an_input():
    long = "a" + " " * 16_000 + "b"
    for error in (FileError(f"There is no “{long}”, and no “cat”."), RecipeError("seed", f"“{long}” is not a seed.")):
        assert len(str(error)) < 130 and "…”" in str(error)
    assert "“cat”" in str(FileError(f"There is no “{long}”, and no “cat”."))
    assert len(str(RecipeError(long, "Wrong."))) < 100 and len(str(FileError("x " * 10**6))) == 2000
    assert str(RecipeError("seed", f"“{'c' * 80}” is not a seed.")) == f"seed: “{'c' * 80}” is not a seed."


def test_a_whole_number_of_any_length_is_refused_in_a_sentence():
    for value in (10**400, -(10**400)):
        with pytest.raises(RecipeError):
            Recipe(concepts=(Concept("cat", "sky"),)).with_settings(lora=LoraSettings(rank=value)).check()
