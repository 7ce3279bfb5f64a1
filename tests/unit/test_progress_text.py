from PIL import Image

from mace_studio.progress import Progress
from mace_studio.ui.components import progress


def test_time_left_goes_by_the_pace_of_the_stage():
    """Images came from the cache in no time; the LoRA took 10 s for 20 % of the job, so 40 % more take 20 s."""
    images = [Progress("images", fraction=0.4, seconds=0.1)]
    training = [Progress("lora", fraction=0.4, seconds=0.2), Progress("lora", fraction=0.6, seconds=10.2)]
    assert progress._left(images + training) == "about 20 s left"
    assert progress._left(images) == ""


def test_training_images_are_shown_while_the_others_are_generated():
    image = Image.new("RGB", (8, 8), "teal")
    events = [Progress("images", "<b>", step=i, total=9, result=image) for i in range(9)]
    shown = progress._latest([*events, Progress("lora", "<b>", result=image)])
    assert shown.count("<img src=") == progress.SHOWN and 'alt="Training image of &lt;b&gt;"' in shown
    assert progress._latest([Progress("images")]) == ""
