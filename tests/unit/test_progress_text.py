from mace_studio.progress import Progress
from mace_studio.ui.components import progress


def test_time_left_goes_by_the_pace_of_the_stage():
    """Images came from the cache in no time; the LoRA took 10 s for 20 % of the job, so 40 % more take 20 s."""
    images = [Progress("images", fraction=0.4, seconds=0.1)]
    training = [Progress("lora", fraction=0.4, seconds=0.2), Progress("lora", fraction=0.6, seconds=10.2)]
    assert progress._left(images + training) == "about 20 s left"
    assert progress._left(images) == ""
