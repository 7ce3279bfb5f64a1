"""What is wanted of the stages of an erasure, and the harmonic mean."""

import pytest

from mace_studio.evaluation.faithful import OURS, Measured, closed_form_ahead, settings_for, verdicts

ORDER = (
    "nothing",
    "refinement only",
    "LoRAs, weighted sum, uniform t",
    "LoRAs, closed form, uniform t",
    "all, with importance sampling",
)


def rows(*figures, fall=0.5):
    """Acc_e and Acc_s in percent, of 100 images each."""
    return {
        name: Measured(done=name, people=20, erased=(e, 100), kept=(s, 100), fall=None if i < 2 else fall)
        for i, (name, (e, s)) in enumerate(zip(ORDER, figures, strict=True))
    }


def test_the_harmonic_mean_by_hand():
    row = Measured(done="", people=1, erased=(20, 100), kept=(60, 100))
    assert row.h_c == pytest.approx(2 * 0.8 * 0.6 / 1.4)
    assert Measured(done="", people=1, erased=(5, 5), kept=(5, 5)).h_c == 0


def test_the_paper_s_order_holds():
    paper = rows((98, 98), (68, 96), (2, 40), (6, 84), (4, 85))
    assert all(verdicts(paper).values())


def test_what_is_ours_does_not_count_in_the_paper_s_order():
    best = {OURS: Measured(done=OURS, people=20, erased=(0, 100), kept=(100, 100))}
    assert all(verdicts(rows((98, 98), (68, 96), (2, 40), (6, 84), (4, 85)) | best).values())


def test_many_people_have_the_learning_rate_of_their_preset():
    rates = [settings_for(number).lora.learning_rate for number in (1, 10, 20, 50, 100)]
    assert rates == pytest.approx([6e-3, 6e-3, 4.87e-3, 3.696e-3, 3e-3], rel=1e-3)


@pytest.mark.parametrize(
    ("figures", "fall", "broken"),
    [
        (((98, 98), (20, 96), (2, 40), (6, 84), (4, 85)), 0.5, "refinement only"),
        (((98, 98), (68, 40), (2, 40), (6, 84), (4, 85)), 0.5, "costs Acc_s"),
        (((98, 98), (68, 96), (2, 90), (6, 84), (4, 85)), 0.5, "closed form keeps it"),
        (((98, 98), (68, 96), (2, 40), (6, 84), (9, 82)), 0.5, "importance sampling"),
        (((98, 98), (68, 96), (2, 40), (6, 84), (4, 85)), 0.1, "loss of the LoRAs"),
    ],
)
def test_what_does_not_hold_is_told(figures, fall, broken):
    failed = [wanted for wanted, held in verdicts(rows(*figures, fall=fall)).items() if not held]
    assert any(broken in wanted for wanted in failed)


@pytest.mark.parametrize(("closed", "ahead"), [((30, 70), True), ((70, 80), False)])
def test_the_best_of_each_fusion_is_compared(closed, ahead):
    figures = {"weighted sum, rate 0.003": (60, 84), "weighted sum, rate 0.006": (40, 60)}  # H_c 54 and 60 %
    figures |= {"closed form, rate 0.003": (90, 90), "closed form, rate 0.006": closed}
    curve = [Measured(done=done, people=100, erased=(e, 100), kept=(s, 100)) for done, (e, s) in figures.items()]
    assert closed_form_ahead(curve) is ahead
