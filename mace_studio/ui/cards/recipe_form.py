"""The form of a recipe: concepts, what to keep, strength and schedule, and the ways in and out of it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.methods import METHODS
from mace_studio.paths import BUILT_IN
from mace_studio.presets import known_kinds, presets
from mace_studio.recipe import KINDS, Concept, Recipe
from mace_studio.runtime.studio import Studio
from mace_studio.ui import concept_text, form, kinds, notices
from mace_studio.ui.cards.suggested import Suggested
from mace_studio.ui.components.concept_table import concept_table, vocabulary_text
from mace_studio.ui.components.mode_switch import mode_switch
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.components.phrase_list import phrase_list
from mace_studio.ui.components.preset_select import groups_of, missing_model, preset_select
from mace_studio.ui.components.slider_field import slider_field
from mace_studio.ui.components.strength_dial import strength_dial
from mace_studio.ui.components.text import estimate_missing, heading, hint
from mace_studio.ui.components.text_download import text_download
from mace_studio.ui.concept_text import Row
from mace_studio.ui.form_fields import BY_KEY, FIELDS, METHOD_GROUPS, STRENGTH, Field, Group, told
from mace_studio.ui.gradio_compat import FILL, HAND_OVER, QUIET, enabled, offer
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener

PASTE_HINT = "Van Gogh -> an artist\nairplane -> sky"
STRENGTH_KEYS = list(dict.fromkeys(key for keys in STRENGTH.values() for key in keys))
DIAL = (
    "It sets how much must stay as it is, by four weights, and how far each training step goes. Smaller weights and "
    "longer steps erase more, and change more of the rest."
)
PRESET_HINT = '<p class="about">A preset fills the whole form. Choose one to read what it changes.</p>'


class RecipeForm:
    """Builds the form's cards, each where it is called for, and answers what they do among themselves.

    Args:
        start: the recipe to begin with.
        studio: knows the model; where it is fixed, only presets of the built-in model are offered.

    Attributes:
        controls: one component for each of `form_fields.FIELDS`, in that order, once all cards are built.
        filled: these, the dial and the notices about the form, as `form.filling` fills them; there once `wire` was
            called.
    """

    def __init__(self, start: Recipe, studio: Studio) -> None:
        self.studio = studio
        self.presets = {p.name: p.recipe for p in presets() if not studio.fixed or p.name.startswith("miniature/")}
        self._begun_with = start
        self._start = dict(zip(BY_KEY, form.values_from(start), strict=True))
        self._built: dict[str, Any] = {}
        self._charts: dict[str, gr.HTML] = {}
        self.suggested = Suggested(studio)
        # Answers for the browser to take in, where what is typed meanwhile stands.
        self._named, self._pasted, self._listed = offer("name", ""), offer("concepts"), offer("preserve")

    @property
    def controls(self) -> list[Any]:
        return [self._built[f.key] for f in FIELDS]

    def bar(self) -> None:
        """Presets, and recipes as files."""
        with gr.Row(elem_classes="card recipe-bar", elem_id="recipe-bar"):
            mode_switch()
            self.preset = preset_select(groups_of(self.presets, self._is_built_in()))
            self.use_preset = gr.Button("Use this preset", size="sm", elem_id="use-preset", interactive=False)
            self.preset_about = gr.HTML(
                PRESET_HINT, label="About the preset", elem_id="preset-about", scale=7, min_width=260
            )
            self.new = gr.Button("New", size="sm", elem_id="new-recipe")
            self.open_recipe = gr.UploadButton(
                "Open recipe", size="sm", file_types=[".json"], type="binary", elem_id="open-recipe"
            )
            self.save_recipe = gr.Button("Save recipe", size="sm", elem_id="save-recipe")
            self.saver = text_download("saver")
        self._notices = [notice("recipe-notice")]
        self.saves = gr.State(0)

    def concepts_card(self) -> None:
        """The table of concepts with its ways in."""
        with gr.Column(elem_classes="card", elem_id="concepts-card"):
            heading("concepts-title", "1", "Concepts to erase", "Each is replaced by what it maps to.")
            table = self._built["concepts"] = concept_table(self._start["concepts"], self._vocabulary())
            self.suggested.below_concepts()
            hint("synonyms-hint", "Synonyms: tested, not trained on; add a row to erase one.")
            with gr.Row(elem_classes="button-row", elem_id="concept-buttons"):
                add = gr.Button("Add concept", size="sm", elem_id="add-concept")
                self.paste = gr.Button("Paste list", size="sm", elem_id="paste-list")
                self.csv = gr.UploadButton(
                    "Import CSV", size="sm", file_types=[".csv", ".tsv", ".txt"], type="binary", elem_id="import-csv"
                )
                clear = gr.Button("Clear", size="sm", elem_id="clear-concepts")
            self._notices.append(notice("csv-notice"))
            self._paste_panel(table)
        for button, event in ((add, "add-row"), (clear, "clear-rows")):
            button.click(None, js=f"() => document.querySelector('#concepts').dispatchEvent(new Event('{event}'))")

    def _paste_panel(self, table: gr.HTML) -> None:
        self.from_file: gr.State = gr.State([])  # concepts of a CSV file, until they are added
        with gr.Column(visible=False, elem_classes="panel", elem_id="paste-panel") as self.panel:
            self.pasted = gr.Textbox(
                label="Concepts, one a line", info="phrase -> mapping", placeholder=PASTE_HINT, lines=4,
                **enabled("pasted"),
            )  # fmt: skip
            self.kind = gr.Dropdown(
                [("Guess", concept_text.GUESS), *((kind, kind) for kind in KINDS)], value=concept_text.GUESS,
                label="Kind of these concepts", **enabled("paste-kind"),
            )  # fmt: skip
            self.comma = gr.Radio(
                list(concept_text.COMMAS.items()), value=None, label="A comma", visible=False, **enabled("paste-comma")
            )
            self.replace = gr.Checkbox(
                False, label="Replace what is in the table", container=False, **enabled("paste-replace")
            )
            self.paste_preview = gr.HTML("", label="What would be added", elem_id="paste-preview")
            with gr.Row(elem_classes="button-row", elem_id="paste-row"):
                take = gr.Button("Add these", variant="primary", size="sm", elem_id="add-pasted")
                close = gr.Button("Close", size="sm", elem_id="close-paste")
        asked = [self.pasted, self.kind, self.comma, self.replace, self.from_file, table]
        edits = [c.change for c in (self.pasted, self.kind, self.comma, self.replace, self.from_file)]
        shown = [self.paste_preview, self.comma]
        gr.on(edits, self.on_pasted, asked, shown, trigger_mode="always_last", **QUIET)
        closed = [self.panel, self.pasted, self.comma, self.from_file, self.paste_preview]
        self.paste.click(lambda: gr.Column(visible=True), None, self.panel, **QUIET)
        close.click(self.on_close_paste, None, closed, **QUIET)
        added = take.click(self.on_add_pasted, asked, [self._pasted, *closed], **QUIET)
        added.success(None, self._pasted, js=HAND_OVER.format("#concepts"))
        self.csv.upload(self.on_csv, self.csv, [self.panel, self.pasted, self.from_file, self._notices[1]], **QUIET)

    def keep_card(self) -> None:
        """The preserve list."""
        with gr.Column(elem_classes="card", elem_id="keep-card"):
            heading("keep-title", "2", "Keep unchanged", "Neighbours of what you erase help most.")
            self._built["preserve"] = phrase_list(
                self._start["preserve"], "Phrases to keep", "preserve", self._vocabulary()
            )
            self.suggested.below_keep()
            with gr.Row(elem_classes="button-row", elem_id="keep-buttons"):
                file = gr.UploadButton(
                    "Import list", size="sm", file_types=[".csv", ".tsv", ".txt"], type="binary", elem_id="import-keep"
                )
                clear = gr.Button("Clear", size="sm", elem_id="clear-keep")
            self._notices.append(notice("keep-notice"))
        read = file.upload(self.on_keep_file, file, [self._listed, self._notices[2]], **QUIET)
        read.success(None, self._listed, js=HAND_OVER.format("#preserve"))
        clear.click(None, js="() => document.querySelector('#preserve').dispatchEvent(new Event('clear-list'))")

    def settings_card(self) -> None:
        """The strength dial of the Simple view, and the settings of the chosen method."""
        with gr.Column(elem_classes="card simple", elem_id="strength-card"):
            heading("strength-title", "3", "Strength", "How much is erased, against how much stays as it was.")
            self.strength = strength_dial()
            text = _dial_text(self._start["method"], *(self._start[key] for key in STRENGTH_KEYS))
            self.strength_text = gr.HTML(text, label="What the dial sets", elem_id="strength-text")
        with gr.Column(elem_classes="card expert", elem_id="settings-card"):
            heading("settings-title", "3", "Method and settings", "How it erases, and how strongly.")
            titles = [(METHODS[name].title, name) for name in METHOD_GROUPS]
            method = self._built["method"] = gr.Dropdown(
                titles, value=self._start["method"], label="Method", container=False, **enabled("method")
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
            if not advanced:
                weights = " The λ weigh what must stay; 0 switches one off." if method == "mace" else ""
                hint(f"{method}-about", html.escape(told(METHODS[method])) + weights)
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
        value = self._start[field.key]
        common: dict[str, Any] = {"label": field.label, "min_width": 120} | enabled(field.elem_id)
        if field.span is not None:
            control: Any = slider_field(field, field.span, value)
        elif field.kind == "flag":
            control = gr.Checkbox(value, container=False, **common | {"label": f"{field.label}: {field.hint}"})
        elif field.kind == "choice":
            control = gr.Dropdown(list(field.choices), value=value, info=field.hint, **common)
        else:
            control = gr.Textbox(value, info=field.hint, max_lines=1, **common)
        self._built[field.key] = control

    def model_listener(self) -> Listener:
        """For the event of a model that was loaded."""
        shown = [self._built["concepts"], self._built["preserve"], self.preset]
        return Listener(self.on_model_loaded, None, shown)

    def wire(self, edited: Listener, told: Sequence[gr.HTML], *others: Any) -> Any:
        """Connect what fills the form, for when all cards are built.

        Args:
            edited: called at changes here and of `others`.
            told: other notices about the form, which are cleared when a recipe fills it.
            others: more components.

        Returns:
            The event of `edited`.
        """
        # One listener for all: of two that write the same, the older answer could come last.
        event = edited.on(*(c.change for c in [self.preset, *self.controls, *others]))
        last = {"trigger_mode": "always_last", **QUIET}
        named = [self._built[key] for key in ("name", "concepts", "about")]
        emptied = self._built["concepts"].edited(_named, named, self._named, **last)
        emptied.then(None, [self._named, named[0]], named[0], js=FILL, **QUIET)
        dialled = [self._built[key] for key in STRENGTH_KEYS]
        self.strength.turned(self.on_strength, [self.strength, *self.controls], dialled, **last)
        shown = [self._built["method"], *dialled]
        gr.on([c.change for c in shown], _dial_text, shown, self.strength_text, **last)
        self.filled = [*self.controls, self.strength, *told, *self._notices]
        self.new.click(self.on_new, None, self.filled, **QUIET)
        self.use_preset.click(self.on_use_preset, self.preset, self.filled, **QUIET)
        self.open_recipe.upload(self.on_open_recipe, self.open_recipe, self.filled, **QUIET)
        self.save_recipe.click(self.on_save_recipe, [self.saves, *self.controls], [self.saver, self.saves], **QUIET)
        return event

    @readable
    def on_model_loaded(self) -> tuple[Any, Any, Any]:
        """Say which words and presets are for the loaded model."""
        words, groups = self._vocabulary(), groups_of(self.presets, self._is_built_in())
        return gr.HTML(vocabulary=words), gr.HTML(vocabulary=words), gr.HTML(groups=json.dumps(groups))

    def preset_text(self, recipe: Recipe, preset: str) -> str:
        """What a preset is, whether it is for the loaded model, and what choosing it changes."""
        needed = missing_model(preset, self._is_built_in())
        text = preset_change(recipe, self.presets[preset])
        return f'<p class="estimate is-missing">This preset needs {needed}.</p>{text}' if needed else text

    def _is_built_in(self) -> bool:
        return self.studio.source == str(BUILT_IN)

    def _vocabulary(self) -> str:
        own = self.studio.vocabulary()
        return vocabulary_text(self._known_kinds(), own.words if own else None)

    def _known_kinds(self) -> dict[str, str]:
        own = self.studio.vocabulary()
        return {**known_kinds(), **(own.kinds if own else {})}

    def _kind_of(self, phrase: str) -> str:
        """What a phrase without a kind is, as the table of concepts guesses it."""
        return kinds.guess(phrase, {name.lower(): kind for name, kind in self._known_kinds().items()})

    @readable
    def on_csv(self, data: bytes) -> Any:
        """Show the concepts of a CSV file, to be added."""
        try:
            concepts = concept_text.from_csv(data, self._kind_of)
        except RecipeError as error:
            return {self._notices[1]: notices.plain(error)}
        return gr.Column(visible=True), "", concepts, CLEAR

    @readable
    def on_pasted(
        self, text: str, kind: str, comma: str | None, replaces: bool, from_file: list[Concept], rows: list[Row]
    ) -> tuple[str, Any]:
        """Show what would be added, and ask how a line with a comma is meant."""
        unclear = concept_text.first_unclear(text)
        question = gr.Radio(visible=bool(unclear), label=f"How is “{unclear[:60]}” meant?")
        if not text.strip() and not from_file:
            return "", question
        try:
            concepts = [*from_file, *concept_text.pasted(text, kind, comma, self._kind_of)]
        except RecipeError as error:
            return estimate_missing(str(error)), question
        return concept_text.preview(rows, concepts, replaces), question

    @readable
    def on_add_pasted(
        self, text: str, kind: str, comma: str | None, replaces: bool, from_file: list[Concept], rows: list[Row]
    ) -> tuple[Any, ...]:
        """Put the concepts into the table."""
        concepts = [*from_file, *concept_text.pasted(text, kind, comma, self._kind_of)]
        fresh = concept_text.fresh_rows([] if replaces else rows, concepts)
        return {"rows": fresh, "replaces": replaces}, *self.on_close_paste()

    @readable
    def on_close_paste(self) -> tuple[Any, ...]:
        """Close the panel and forget what is in it."""
        return gr.Column(visible=False), "", None, [], ""

    @readable
    def on_keep_file(self, data: bytes) -> tuple[list[str], dict[str, str]]:
        """Add the phrases of a file to those that are kept."""
        try:
            return concept_text.phrases_of_file(data), CLEAR
        except RecipeError as error:
            return [], notices.plain(error)

    @readable
    def on_new(self) -> list[Any]:
        """Empty the form, but for the settings that it began with."""
        fresh = replace(self._begun_with, concepts=(Concept("", ""),), preserve=(), name="", about="")
        return form.filling(fresh)

    @readable
    def on_strength(self, turned: int, *values: Any) -> list[Any]:
        """Set what the dial stands for."""
        numbers = form.with_strength(values, turned)
        return [numbers.get(key, gr.skip()) for key in STRENGTH_KEYS]

    @readable
    def on_method(self, method: str) -> list[Any]:
        """Show the settings of the chosen method, plain and advanced."""
        return 2 * [gr.Column(visible=name == method) for name in METHOD_GROUPS]

    @readable
    def on_use_preset(self, name: str) -> list[Any]:
        """Fill the form from a preset."""
        return form.filling(self.presets[name])

    @readable
    def on_open_recipe(self, data: bytes) -> Any:
        """Fill the form from a file."""
        try:
            return form.filling(form.recipe_of_file(data))
        except RecipeError as error:
            return {self._notices[0]: notices.plain(error)}

    @readable
    def on_save_recipe(self, saves: int, *values: Any) -> tuple[dict[str, Any], int]:
        """Hand the form's recipe to the browser as a file."""
        recipe = form.recipe_from(values).check()
        return {"name": f"recipe-{recipe.digest()}.json", "text": recipe.to_json(), "count": saves}, saves + 1


@readable
def _named(name: str, concepts: Any, about: Any) -> list[list[str]]:
    """The name without what came with other concepts, unless the user types another meanwhile."""
    return [[name, form.name_from(name, concepts, about)]]


@readable
def _dial_text(method: str, *values: Any) -> str:
    """What the form has of the settings that the dial turns; `values` are those of `STRENGTH_KEYS`."""
    turned = STRENGTH.get(method, {})
    if not turned:
        return '<p class="hint">This method has no dial: its settings are in the Expert view.</p>'
    pairs = [
        f"<b>{BY_KEY[key].label}</b> {html.escape(str(value))}"
        for key, value in zip(STRENGTH_KEYS, values, strict=True)
        if key in turned
    ]
    listed = " ·</span> <span>".join(pairs)  # no line begins with the dot
    return f'<p class="hint">{DIAL}</p><p class="hint dialled"><span>{listed}</span></p>'


def preset_change(now: Recipe, preset: Recipe) -> str:
    """What a preset is, and what choosing it changes in the form, as escaped HTML."""
    listed = "".join(
        f"<li><b>{html.escape(label)}</b> {html.escape(old)} {'becomes' if '→' in old + new else '→'} "
        f"{html.escape(new)}</li>"
        for label, old, new in form.differences(now, preset)
        if label not in ("About", "Name")
    )
    changes = (
        f'<ul class="changes" aria-label="What it changes">{listed}</ul>' if listed else "<p>The form shows it.</p>"
    )
    return f'<p class="about">{html.escape(preset.about)}</p>{changes}'
