"""The tabs of the page, in their order. A new tab is a file here and a line in this list."""

from __future__ import annotations

from mace_studio.ui.tab import Tab
from mace_studio.ui.tabs.attention import AttentionTab
from mace_studio.ui.tabs.compare import CompareTab
from mace_studio.ui.tabs.erase import EraseTab
from mace_studio.ui.tabs.evaluate import EvaluateTab
from mace_studio.ui.tabs.models import ModelsTab

TABS = (
    Tab("Erase", EraseTab, jobs=("erase", "masks", "outcome")),
    Tab("Compare", CompareTab, jobs=("compare",)),
    Tab("Attention", AttentionTab, jobs=("attention",)),
    Tab("Evaluate", EvaluateTab, jobs=("evaluate", "beyond")),
    Tab("Models", ModelsTab, jobs=("compose", "export", "base")),
)
