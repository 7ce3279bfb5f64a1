"""The form of a recipe: concepts, what to keep, strength and schedule, and the ways in and out of it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from mace_studio.methods import METHODS
from mace_studio.presets import presets
from mace_studio.recipe import KINDS, Recipe
from mace_studio.ui import concept_text, form
from mace_studio.ui.components.concept_table import concept_table
from mace_studio.ui.components.slider_field import slider_field
from mace_studio.ui.components.text import heading, hint
from mace_studio.ui.components.text_download import text_download
from mace_studio.ui.form_fields import BY_KEY, FIELDS, METHOD_GROUPS, Field, Group
from mace_studio.ui.gradio_compat import QUIET, enabled
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener

PASTE_HINT = "Van Gogh -> an artist\nairplane -> sky"
PRESET_HINT = '<p class="about">A preset fills the whole form. Choose one to read what it changes.</p>'


class RecipeForm:
    """Builds the form's cards, each where it is called for, and answers what they do among themselves.

    Args:
        start: the recipe to begin with.
        own: offer the built-in model's presets only.

    Attributes:
        controls: one component for each of `form_fields.FIELDS`, in that order, once all cards are built.
    """

    def __init__(self, start: Recipe, own: bool) -> None:
        self.presets = {p.name: p.recipe for p in presets() if not own or p.name.startswith("miniature/")}
        self._start = dict(zip(BY_KEY, form.values_from(start), strict=True))
        self._built: dict[str, Any] = {}
        self._charts: dict[str, gr.HTML] = {}

    @property
    def controls(self) -> list[Any]:
        return [self._built[f.key] for f in FIELDS]

    def bar(self) -> None:
        """Presets, and recipes as files."""
        with gr.Row(elem_classes="card recipe-bar", elem_id="recipe-bar"):
            names = [(r.title(), name) for name, r in self.presets.items()]
            self.preset = gr.Dropdown(
                names, value=None, label="Preset", interactive=True, elem_id="preset", min_width=200
            )
            self.use_preset = gr.Button("Use this preset", size="sm", elem_id="use-preset", interactive=False)
            self.preset_about = gr.HTML(
                PRESET_HINT, label="About the preset", elem_id="preset-about", scale=7, min_width=260
            )
            self.open_recipe = gr.UploadButton(
                "Open recipe", size="sm", file_types=[".json"], type="binary", elem_id="open-recipe"
            )
            self.save_recipe = gr.Button("Save recipe", size="sm", elem_id="save-recipe")
            self.saver = text_download("saver")
        self.saves = gr.State(0)

    def concepts_card(self) -> None:
        """The table of concepts with its ways in."""
        with gr.Column(elem_classes="card", elem_id="concepts-card"):
            heading("concepts-title", "1", "Concepts to erase", "Each is replaced by what it maps to.")
            table = self._built["concepts"] = concept_table(self._start["concepts"])
            hint("synonyms-hint", "Synonyms: tested, not trained on; add a row to erase one.")
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
                kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Kind of these concepts", **enabled("paste-kind"))
                take = gr.Button("Add these", size="sm", elem_id="add-pasted")
        table = self._built["concepts"]
        self.paste.click(self.on_paste, self.pasting, [self.panel, self.pasting], **QUIET)
        outputs = [table, self.panel, self.pasting, self.pasted]
        take.click(self.on_add_pasted, [self.pasted, kind, table], outputs, **QUIET)

    def keep_card(self) -> None:
        """The preserve list."""
        with gr.Column(elem_classes="card", elem_id="keep-card"):
            heading(
                "keep-title", "2", "Keep unchanged", "Neighbours of what you erase help most. Type one and press Enter."
            )
            self._built["preserve"] = gr.Dropdown(
                [],
                value=self._start["preserve"],
                label="Keep unchanged",
                multiselect=True,
                allow_custom_value=True,
                show_label=False,
                container=False,
                **enabled("preserve"),
            )

    def settings_card(self) -> None:
        """The method and its settings: those of the chosen method are shown."""
        with gr.Column(elem_classes="card", elem_id="settings-card"):
            heading("settings-title", "3", "Strength and schedule", "The λ weigh what must stay; 0 switches one off.")
            titles = [(METHODS[name].title, name) for name in METHOD_GROUPS]
            method = self._built["method"] = gr.Dropdown(
                titles, value=self._start["method"], label="Method", visible=len(titles) > 1, **enabled("method")
            )
            panels = [self._panel(name, advanced=False) for name in METHOD_GROUPS]
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                panels += [self._panel(name, advanced=True) for name in METHOD_GROUPS]
                self._control(BY_KEY["seed"])
                self._control(BY_KEY["name"])
        self._built["about"] = gr.State(self._start["about"])
        method.change(self.on_method, method, panels, **QUIET)
        for group in (group for groups in METHOD_GROUPS.values() for group in groups if group.chart is not None):
            self._wire_chart(group)

    def _panel(self, method: str, advanced: bool) -> gr.Column:
        elem_id = f"{method}-{'advanced' if advanced else 'settings'}"
        with gr.Column(visible=method == self._start["method"], elem_classes="method-panel", elem_id=elem_id) as panel:
            for group in METHOD_GROUPS[method]:
                if group.advanced == advanced:
                    self._group(group)
        return panel

    def _group(self, group: Group) -> None:
        layout = {1: "", 2: "pair-grid", 3: "triple-grid"}[group.columns]
        with gr.Row(elem_classes=layout, elem_id=group.elem_id) if layout else gr.Column(elem_id=group.elem_id):
            for field in group.fields:
                self._control(field)
        if group.chart is not None:
            shown = group.chart(*(self._start[key] for key in group.chart_fields))
            self._charts[group.elem_id] = gr.HTML(shown or "", label="Chart", elem_id=f"{group.elem_id}-chart")

    def _wire_chart(self, group: Group) -> None:
        def on_chart_field(*values: Any) -> Any:
            shown = group.chart(*values) if group.chart else None
            return gr.skip() if shown is None else shown

        fields = [self._built[key] for key in group.chart_fields]
        chart = self._charts[group.elem_id]
        gr.on([f.change for f in fields], on_chart_field, fields, chart, trigger_mode="always_last", **QUIET)

    def _control(self, field: Field) -> None:
        value, common = self._start[field.key], {"label": field.label, "min_width": 120} | enabled(field.elem_id)
        if field.span is not None:
            control: Any = slider_field(field, field.span, value)
        elif field.kind == "flag":
            control = gr.Checkbox(value, container=False, **common | {"label": f"{field.label}: {field.hint}"})
        elif field.kind == "choice":
            control = gr.Dropdown(list(field.choices), value=value, info=field.hint, **common)
        else:
            control = gr.Textbox(value, info=field.hint, max_lines=1, **common)
        self._built[field.key] = control

    def wire(self, edited: Listener, *others: Any) -> None:
        """Connect presets and files, and `edited` to changes here and of `others`; for when all cards are built."""
        # One listener for all: of two that write the same, the older answer could come last.
        changes = [c.change for c in [self.preset, *self.controls, *others]]
        edited.on(
            lambda fn, inputs, outputs, **options: gr.on(
                changes, fn, inputs, outputs, trigger_mode="always_last", **options
            )
        )
        self.use_preset.click(self.on_use_preset, self.preset, self.controls, **QUIET)
        self.open_recipe.upload(self.on_open_recipe, self.open_recipe, self.controls, **QUIET)
        self.save_recipe.click(self.on_save_recipe, [self.saves, *self.controls], [self.saver, self.saves], **QUIET)

    @readable
    def on_csv(self, data: bytes, rows: list[concept_text.Row]) -> list[concept_text.Row]:
        """Add the concepts of a CSV file."""
        return concept_text.appended(rows, concept_text.from_csv(data))

    @readable
    def on_paste(self, pasting: bool) -> tuple[Any, bool]:
        """Open or close the panel."""
        return gr.Column(visible=not pasting), not pasting

    @readable
    def on_add_pasted(self, text: str, kind: str, rows: list[concept_text.Row]) -> tuple[Any, ...]:
        """Add the pasted concepts."""
        rows = concept_text.appended(rows, concept_text.pasted(text, kind))
        return rows, gr.Column(visible=False), False, ""

    @readable
    def on_method(self, method: str) -> list[Any]:
        """Show the settings of the chosen method, plain and advanced."""
        return 2 * [gr.Column(visible=name == method) for name in METHOD_GROUPS]

    @readable
    def on_use_preset(self, name: str) -> list[Any]:
        """Fill the form from a preset."""
        return form.values_from(self.presets[name])

    @readable
    def on_open_recipe(self, data: bytes) -> list[Any]:
        """Fill the form from a file."""
        return form.values_from(form.recipe_of_file(data))

    @readable
    def on_save_recipe(self, saves: int, *values: Any) -> tuple[dict[str, Any], int]:
        """Hand the form's recipe to the browser as a file."""
        recipe = form.recipe_from(values).check()
        return {"name": f"recipe-{recipe.digest()}.json", "text": recipe.to_json(), "count": saves}, saves + 1


def preset_change(now: Recipe, preset: Recipe) -> str:
    """What a preset is, and what choosing it changes in the form, as escaped HTML."""
    listed = "".join(
        f"<li><b>{html.escape(label)}</b> {html.escape(old)} → {html.escape(new)}</li>"
        for label, old, new in form.differences(now, preset)
        if label not in ("About", "Name")
    )
    changes = (
        f'<ul class="changes" aria-label="What it changes">{listed}</ul>' if listed else "<p>The form shows it.</p>"
    )
    return f'<p class="about">{html.escape(preset.about)}</p>{changes}'
