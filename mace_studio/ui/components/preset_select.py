"""The choice of a preset: a native select with groups; gr.Dropdown opens when the Tab key reaches it (Gradio 6.31).

gradio-app/gradio#12011 is about the same of its lists of several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from mace_studio.recipe import Recipe
from mace_studio.ui.components.files import script

TEMPLATE = """<div class="preset-select"><label for="preset-choice">Preset</label>
<select id="preset-choice"><option value="">Choose …</option></select></div>"""
# Folder of the presets -> the model that they are for.
MODELS = {"miniature": "Built-in model", "paper": "Stable Diffusion 1.4"}
KIND_TITLES = {"object": "objects", "celebrity": "people", "style": "styles", "explicit": "explicit content"}

Groups = list[dict[str, Any]]


def preset_select(groups: Groups) -> gr.HTML:
    """The select; its value is the name of the chosen preset, or ""."""
    return gr.HTML(
        "",
        label="Preset",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="preset",
        groups=json.dumps(groups, ensure_ascii=False),
    )


def groups_of(presets: Mapping[str, Recipe], built_in: bool) -> Groups:
    """The presets by model and kind, those for the loaded model first: [{label, options: [[name, title]]}].

    Args:
        presets: name -> recipe.
        built_in: whether the loaded model is the built-in one.
    """
    found: dict[tuple[bool, str], list[list[str]]] = {}
    for name, recipe in presets.items():
        kinds = list(dict.fromkeys(concept.kind for concept in recipe.concepts))
        kind = KIND_TITLES[kinds[0]] if len(kinds) == 1 else "mixed"
        code = " · as published code" if "as_published_code" in name else ""
        code += " · other methods" if "/methods/" in name else ""
        needed = missing_model(name, built_in)
        label = " · ".join(filter(None, [MODELS.get(name.split("/")[0]), kind])) + code
        note = f" (not for the loaded model: needs {needed})" if needed else ""
        found.setdefault((bool(needed), label + note), []).append([name, recipe.title()])
    return [
        {"label": label, "options": options} for (_, label), options in sorted(found.items(), key=lambda one: one[0][0])
    ]


def missing_model(name: str, built_in: bool) -> str:
    """The model that a preset is for, if it cannot be the loaded one; "" otherwise."""
    folder = name.split("/")[0]
    if folder not in MODELS or (folder == "miniature") == built_in:
        return ""
    return "the built-in model" if folder == "miniature" else MODELS[folder]
