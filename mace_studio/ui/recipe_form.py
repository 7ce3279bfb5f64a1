"""The form of a recipe: concepts, what to keep, strength and schedule, and the ways in and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from mace_studio.methods.mace import FUSIONS, MASKS
from mace_studio.recipe import KINDS, Recipe
from mace_studio.runtime.library import presets
from mace_studio.settings import TUNE
from mace_studio.ui import concept_text, form, run_view
from mace_studio.ui.charts import timestep_curve
from mace_studio.ui.components.concept_table import concept_table
from mace_studio.ui.components.slider_field import WEIGHT, Span, slider_field
from mace_studio.ui.files import page_file
from mace_studio.ui.notices import spoken

PASTE_HINT = "Van Gogh -> an artist\nairplane -> sky"


class RecipeForm:
    """Builds the form's cards, each where it is called for, and answers what they do among themselves.

    Args:
        start: the recipe to begin with.
        own: offer the built-in model's presets only.

    Attributes:
        controls: one component for each of `form.FIELDS`, in that order, once all cards are built.
    """

    def __init__(self, start: Recipe, own: bool) -> None:
        self.presets = {p.name: p.recipe for p in presets() if not own or p.name.startswith("miniature/")}
        self._start = dict(zip(form.BY_KEY, form.values_from(start), strict=True))
        self._made: dict[str, Any] = {}

    @property
    def controls(self) -> list[Any]:
        return [self._made[f.key] for f in form.FIELDS]

    def bar(self) -> None:
        """Presets, and recipes as files."""
        with gr.Row(elem_classes="card recipe-bar", elem_id="recipe-bar"):
            names = [(r.title(), name) for name, r in self.presets.items()]
            self.preset = gr.Dropdown(
                names, value=None, label="Preset", interactive=True, elem_id="preset", min_width=200
            )
            self.use_preset = gr.Button("Use this preset", size="sm", elem_id="use-preset", interactive=False)
            self.preset_about = gr.HTML(
                run_view.preset_hint(), label="About the preset", elem_id="preset-about", scale=7, min_width=260
            )
            self.open_recipe = gr.UploadButton(
                "Open recipe", size="sm", file_types=[".json"], type="binary", elem_id="open-recipe"
            )
            self.save_recipe = gr.Button("Save recipe", size="sm", elem_id="save-recipe")
            self.saver = gr.HTML(
                {}, label="Saved recipe", html_template="", js_on_load=page_file("saver.js"), elem_id="saver"
            )
        self.saves = gr.State(0)

    def concepts_card(self) -> None:
        """The table of concepts with its ways in."""
        with gr.Column(elem_classes="card", elem_id="concepts-card"):
            run_view.heading("concepts-title", "1", "Concepts to erase", "Each is replaced by what it maps to.")
            table = self._made["concepts"] = concept_table(self._start["concepts"])
            run_view.hint("synonyms-hint", "Synonyms: tested, not trained on; add a row to erase one.")
            with gr.Row(elem_classes="button-row", elem_id="concept-buttons"):
                add = gr.Button("Add concept", size="sm", elem_id="add-concept")
                self.paste = gr.Button("Paste list", size="sm", elem_id="paste-list")
                self.csv = gr.UploadButton(
                    "Import CSV", size="sm", file_types=[".csv", ".tsv", ".txt"], type="binary", elem_id="import-csv"
                )
            self._paste_panel()
        add.click(None, js="() => document.querySelector('#concepts').dispatchEvent(new Event('add-row'))")
        self.csv.upload(self.on_csv, [self.csv, table], table, **QUIET)

    def _paste_panel(self) -> None:
        self.pasting = gr.State(False)
        with gr.Column(visible=False, elem_classes="panel", elem_id="paste-panel") as self.panel:
            self.pasted = gr.Textbox(
                label="Concepts, one a line",
                info="phrase -> mapping",
                placeholder=PASTE_HINT,
                lines=4,
                interactive=True,
                elem_id="pasted",
            )
            with gr.Row(elem_classes="button-row", elem_id="paste-row"):
                kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Kind of these concepts", **open_to("paste-kind"))
                take = gr.Button("Add these", size="sm", elem_id="add-pasted")
        table = self._made["concepts"]
        self.paste.click(self.on_paste, self.pasting, [self.panel, self.pasting], **QUIET)
        outputs = [table, self.panel, self.pasting, self.pasted]
        take.click(self.on_add_pasted, [self.pasted, kind, table], outputs, **QUIET)

    def keep_card(self) -> None:
        """The preserve list."""
        with gr.Column(elem_classes="card", elem_id="keep-card"):
            run_view.heading(
                "keep-title", "2", "Keep unchanged", "Neighbours of what you erase help most. Type one and press Enter."
            )
            self._made["preserve"] = gr.Dropdown(
                [],
                value=self._start["preserve"],
                label="Keep unchanged",
                multiselect=True,
                allow_custom_value=True,
                show_label=False,
                container=False,
                **open_to("preserve"),
            )

    def settings_card(self) -> None:
        """Strength, schedule and the advanced settings."""
        with gr.Column(elem_classes="card", elem_id="settings-card"):
            run_view.heading(
                "settings-title", "3", "Strength and schedule", "The λ weigh what must stay; 0 switches one off."
            )
            with gr.Row(elem_classes="pair-grid", elem_id="weights"):
                self._slider("lambda1", "General captions, in Refine", WEIGHT)
                self._slider("lambda2", "General captions, in Fuse", WEIGHT)
                self._slider("lambda3", "Your keep list, in both", WEIGHT)
                self._slider("identity", "The weights themselves, in both", WEIGHT)
            with gr.Row(elem_classes="triple-grid", elem_id="window"):
                self._slider("t1", "Focus begins", Span(0, 999, 1, log=False))
                self._slider("t2", "Focus ends", Span(0, 999, 1, log=False))
                self._slider("gamma", "Steepness", Span(-3, 0, 0.05))
            drawn = [float(self._start[k]) for k in ("t1", "t2", "gamma")]
            self.curve = gr.HTML(
                timestep_curve(*drawn, self._start["uniform"]), label="Timestep density", elem_id="curve"
            )
            with gr.Row(elem_classes="pair-grid", elem_id="lora"):
                self._text("lora_steps", "Per concept; 0 leaves it out")
                self._text("learning_rate", "Of AdamW, such as 1e-4")
                self._text("rank", "Of each LoRA, usually 1")
                self._text("alpha", "Scales it by alpha / rank")
            self._advanced()
        window = [self._made[k] for k in ("t1", "t2", "gamma", "uniform")]
        gr.on([c.change for c in window], self.on_window, window, self.curve, trigger_mode="always_last", **QUIET)

    def _advanced(self) -> None:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            with gr.Row(elem_classes="pair-grid", elem_id="advanced-grid"):
                self._text("lambda3_fuse", "Blank: same as in Refine")
                self._text("identity_fuse", "Blank: same as in Refine")
                self._choice("tune", TUNE, "Key and value projections")
                self._choice("fusion", FUSIONS, "Weighted sum: the ablation")
                self._choice("masks", MASKS, "Not for styles and explicit")
                self._text("concepts_at_once", "Memory and speed only")
                self._text("image_count", "For training, drawn first")
                self._text("image_steps", "Denoising steps of each")
                self._text("image_guidance", "Of each; 1 is none")
                self._text("seed", "Of images, noise, timesteps")
            self._flag("pad_tokens", "also press down what they carry")
            self._flag("squared", "of squared norms, as Eq. 3 is printed")
            self._flag("uniform", "all equally often (ablation)")
            self._text("name", "What to call the result; made of the concepts when blank")
        self._made["about"] = gr.State(self._start["about"])

    def wire(self, edited: dict[str, Any], *others: Any) -> None:
        """Connect presets and files, and `edited` to changes here and of `others`; for when all cards are built."""
        # One listener for all: of two that write the same, the older answer could come last.
        changes = [c.change for c in [self.preset, *self.controls, *others]]
        gr.on(changes, **edited, trigger_mode="always_last", **QUIET)
        self.use_preset.click(self.on_use_preset, self.preset, self.controls, **QUIET)
        self.open_recipe.upload(self.on_open_recipe, self.open_recipe, self.controls, **QUIET)
        self.save_recipe.click(self.on_save_recipe, [self.saves, *self.controls], [self.saver, self.saves], **QUIET)

    @spoken
    def on_csv(self, data: bytes, rows: list[concept_text.Row]) -> list[concept_text.Row]:
        return concept_text.appended(rows, concept_text.from_csv(data))

    @spoken
    def on_paste(self, pasting: bool) -> tuple[Any, bool]:
        return gr.Column(visible=not pasting), not pasting

    @spoken
    def on_add_pasted(self, text: str, kind: str, rows: list[concept_text.Row]) -> tuple[Any, ...]:
        rows = concept_text.appended(rows, concept_text.pasted(text, kind))
        return rows, gr.Column(visible=False), False, ""

    @spoken
    def on_window(self, *values: Any) -> Any:
        drawn = form.window_from(values)
        return timestep_curve(*drawn) if drawn else gr.skip()

    @spoken
    def on_use_preset(self, name: str) -> list[Any]:
        return form.values_from(self.presets[name])

    @spoken
    def on_open_recipe(self, data: bytes) -> list[Any]:
        return form.values_from(form.recipe_of_file(data))

    @spoken
    def on_save_recipe(self, saves: int, *values: Any) -> tuple[dict[str, Any], int]:
        recipe = form.recipe_from(values).check()
        return {"name": f"recipe-{recipe.digest()}.json", "text": recipe.to_json(), "count": saves}, saves + 1

    def _slider(self, key: str, hint: str, span: Span) -> None:
        self._made[key] = slider_field(key, hint, self._start[key], span)

    def _text(self, key: str, hint: str) -> None:
        field = form.BY_KEY[key]
        self._made[key] = gr.Textbox(
            self._start[key], label=field.label, info=hint, max_lines=1, min_width=120, **open_to(field.elem_id)
        )

    def _choice(self, key: str, choices: Sequence[str], hint: str) -> None:
        field = form.BY_KEY[key]
        self._made[key] = gr.Dropdown(
            list(choices), value=self._start[key], label=field.label, info=hint, min_width=120, **open_to(field.elem_id)
        )

    def _flag(self, key: str, hint: str) -> None:
        field = form.BY_KEY[key]
        label = f"{field.label}: {hint}"
        self._made[key] = gr.Checkbox(self._start[key], label=label, container=False, **open_to(field.elem_id))


# No overlay over what a handler changes, and no entry in the public API.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
STEPS = "20"  # what drawing begins with on every tab


def open_to(elem_id: str) -> dict[str, Any]:
    """Gradio disables a component that it thinks nobody reads, so every control says that it can be changed."""
    return {"interactive": True, "elem_id": elem_id}
