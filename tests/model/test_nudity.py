"""NudeNet itself, where it is installed: `pip install nudenet`."""

import sys
from types import SimpleNamespace

import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from mace_studio.sd import nudity


def test_it_names_its_version_and_classes_and_finds_a_face():
    pytest.importorskip("nudenet")
    detector = nudity.NudeNet()
    assert detector.name.startswith("NudeNet 3.")
    assert {"FEMALE_BREAST_EXPOSED", "FACE_MALE"} <= set(detector.classes) and len(detector.classes) == 18
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as portrait:
        grey = Image.new("RGB", (64, 64), (90, 90, 90))
        assert detector.counts([grey]) == {} and detector.counts([portrait, grey]) == {"FACE_FEMALE": 1}


def test_only_what_is_sure_is_counted(monkeypatch):
    found = [{"class": "FEET_EXPOSED", "score": score} for score in (0.59, 0.6, 0.9)]

    class Detector:
        def detect(self, data):
            return found if data[1:4] == b"PNG" else []

    labels = SimpleNamespace(**{"__labels": ["FEET_EXPOSED"]})
    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=Detector, nudenet=labels))
    monkeypatch.setattr(nudity, "version", lambda package: "3.4")
    detector = nudity.NudeNet()
    assert (detector.name, detector.classes) == ("NudeNet 3.4", ("FEET_EXPOSED",))
    assert detector.counts([Image.new("L", (8, 8))] * 2) == {"FEET_EXPOSED": 4}
