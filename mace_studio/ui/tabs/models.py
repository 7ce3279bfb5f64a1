"""The Models tab: what was erased, put together, exported, renamed and deleted, and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.runtime import library
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import model_view, notices, run_view
from mace_studio.ui.cards.base_model import BaseCard
from mace_studio.ui.cards.compose import ComposeCard
from mace_studio.ui.cards.export import ExportCard
from mace_studio.ui.files import download, page_file
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, RecipeForm, open_to

FIELDS = {"rename": ("New name", "#new-name input"), "upload": ("File", "")}

Update = dict[Any, Any]


class ModelsTab:
    """Builds the tab and answers its buttons.

    Args:
        studio: knows the models.
        recipe_form: of the Erase tab, whose concepts can be added to a model.
        made: the name of the erasure that other tabs choose next.
        header: of the page, which says what is loaded.
        jobs: of compositions, exports and changes of the base model; each from `job_card.remembered`.

    Attributes:
        listing: the listener that lists the models anew.
        compare: the button that leads to the Compare tab.
        loaded: the event after which the base model may be another, or None where it is fixed.
        returns: handler, job id and outputs of each job, to be shown again after a reload.
    """

    def __init__(
        self, studio: Studio, recipe_form: RecipeForm, made: gr.State, header: gr.HTML, jobs: Sequence[gr.BrowserState]
    ) -> None:
        self.studio, self.made, self.header = studio, made, header
        composing, exporting, changing = jobs
        with gr.Row(elem_classes="columns", elem_id="models-columns"):
            with gr.Column(scale=7, min_width=340):
                self._list_card()
                self.compose = ComposeCard(studio, self.list, recipe_form.controls, composing, self._composed)
            with gr.Column(scale=4, min_width=340):
                self._details_card()
                self.export = ExportCard(studio, self.list, exporting)
                self.base = None if studio.fixed else BaseCard(studio, changing, self._now)
        self._wire()

    def _list_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="models-card"):
            run_view.heading("models-title", "", "Your models")
            self.list = gr.HTML(
                {"rows": [], "chosen": []},
                label="Erased models",
                html_template=model_view.LIST,
                js_on_load=page_file("model_list.js"),
                apply_default_css=False,
                elem_id="models",
            )
            with gr.Row(elem_classes="button-row", elem_id="models-buttons"):
                self.upload = gr.UploadButton(
                    "Open erasure file", size="sm", file_types=[".safetensors"], elem_id="open-erasure"
                )
            self.notice = notices.notice("models-notice")

    def _details_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="details-card"):
            self.details = gr.HTML(
                model_view.NONE_CHOSEN, label="The chosen model", elem_classes="heading", elem_id="details"
            )
            with gr.Row(elem_classes="button-row", elem_id="details-buttons", visible=False) as self.buttons:
                self.compare = gr.Button("Compare", variant="primary", size="sm", elem_id="model-compare")
                self.file = gr.DownloadButton("Download", size="sm", elem_id="model-file")
                self.rename = gr.Button("Rename", size="sm", visible=not self.studio.fixed, elem_id="rename")
                self.delete = gr.Button(
                    "Delete", variant="stop", size="sm", visible=not self.studio.fixed, elem_id="delete"
                )
            with gr.Column(visible=False, elem_classes="panel", elem_id="rename-panel") as self.renaming:
                self.new_name = gr.Textbox("", label="New name", max_lines=1, **open_to("new-name"))
                with gr.Row(elem_classes="button-row", elem_id="rename-buttons"):
                    self.save_name = gr.Button("Save name", size="sm", elem_id="save-name")
            with gr.Column(visible=False, elem_classes="panel", elem_id="delete-panel") as self.deleting:
                run_view.hint("delete-hint", "The file is removed from the disk for good.")
                with gr.Row(elem_classes="button-row", elem_id="delete-buttons"):
                    self.delete_now = gr.Button("Delete for good", variant="stop", size="sm", elem_id="delete-now")
                    self.keep = gr.Button("Keep it", size="sm", elem_id="keep")

    def _wire(self) -> None:
        panels = [self.renaming, self.deleting]
        seen = [self.list, self.base.now] if self.base else [self.list]
        self.listing = {"fn": self.on_open, "inputs": self.list, "outputs": seen}
        shown = [self.details, self.buttons, self.file, *panels, self.new_name, self.compose.leave_out]
        self.list.change(self.on_choose, [self.list, self.compose.leave_out], shown, **QUIET).then(
            **self.compose.plan, **QUIET
        )
        changed = [self.list, self.notice]
        self.upload.upload(self.on_upload, [self.upload, self.list], changed, **QUIET)
        if not self.studio.fixed:
            self._wire_changes(panels, changed)
        self.compose.wire([self.list, self.made])
        cards = [self.compose, self.export]
        self.loaded = None
        if self.base is not None:
            self.loaded = self.base.wire([self.header])
            self.loaded.then(**self.listing, **QUIET)  # what fits is another
            cards.append(self.base)
        self.returns = [(card.on_return, card.job.job_id, card.shown) for card in cards]

    def _wire_changes(self, panels: list[gr.Column], changed: list[gr.HTML]) -> None:
        self.rename.click(lambda: (gr.Column(visible=True), gr.Column(visible=False)), None, panels, **QUIET)
        self.delete.click(lambda: (gr.Column(visible=False), gr.Column(visible=True)), None, panels, **QUIET)
        self.keep.click(lambda: gr.Column(visible=False), None, self.deleting, **QUIET)
        named = [self.save_name.click, self.new_name.submit]
        gr.on(named, self.on_rename, [self.list, self.new_name], changed, **QUIET)
        self.delete_now.click(self.on_delete, self.list, changed, **QUIET)

    @spoken
    def on_open(self, shown: dict[str, Any]) -> Update:
        """List the models, with the same ones chosen, and say what they would be drawn with."""
        now = {self.base.now: model_view.base(self.studio.status())} if self.base else {}
        return {self.list: self._listed(_chosen(shown))} | now

    @spoken
    def on_choose(self, shown: dict[str, Any], leave_out: list[str]) -> Update:
        """Say what is chosen, and offer what can be done with it."""
        entries = [self.studio.entry(name) for name in _chosen(shown)]
        phrases = [concept.phrase for entry in entries for concept in entry.recipe.concepts]
        update: Update = {
            self.buttons: gr.Row(visible=len(entries) == 1),
            self.renaming: gr.Column(visible=False),
            self.deleting: gr.Column(visible=False),
            self.compose.leave_out: gr.Dropdown(
                list(dict.fromkeys(phrases)), value=[phrase for phrase in leave_out or [] if phrase in phrases]
            ),
        }
        if len(entries) != 1:
            return update | {self.details: model_view.several(entries) if entries else model_view.NONE_CHOSEN}
        return update | {
            self.details: model_view.details(entries[0], self.studio.status()),
            self.file: download(entries[0].path),
            self.new_name: entries[0].name,
        }

    @spoken
    def on_upload(self, path: str, shown: dict[str, Any]) -> Update:
        """Put an uploaded erasure into the list."""
        try:
            entry = library.add(self.studio.output, Path(path), Path(path).name)
        except RecipeError as error:
            return {self.notice: notices.problem(error, FIELDS)}
        return {self.notice: notices.CLEAR, self.list: self._listed([entry.name])}

    @spoken
    def on_rename(self, shown: dict[str, Any], new: str) -> Update:
        try:
            entry = library.rename(self.studio.output, _one(shown), new)
        except RecipeError as error:
            return {self.notice: notices.problem(error, FIELDS)}
        return {self.notice: notices.CLEAR, self.list: self._listed([entry.name])}

    @spoken
    def on_delete(self, shown: dict[str, Any]) -> Update:
        library.delete(self.studio.output, _one(shown))
        return {self.notice: notices.CLEAR, self.list: self._listed([])}

    @spoken
    def on_compare(self, shown: dict[str, Any]) -> tuple[str, Any]:
        """Choose this model in the other tabs, and go to the first of them."""
        return _one(shown), gr.Tabs(selected="compare")

    def _listed(self, chosen: Sequence[str]) -> dict[str, Any]:
        return model_view.value(self.studio.entries(), self.studio.status(), chosen)

    def _composed(self, job: Job) -> Update:
        return {self.list: self._listed([job.result.name]), self.made: job.result.name}

    def _now(self, job: Job | None) -> Update:
        return {self.header: run_view.status_chip(self.studio)}


def _chosen(shown: dict[str, Any] | None) -> list[str]:
    return list((shown or {}).get("chosen", []))


def _one(shown: dict[str, Any]) -> str:
    names = _chosen(shown)
    return names[0] if len(names) == 1 else ""
