"""The Models tab: what was erased, put together, exported, renamed and deleted, and the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.runtime import library, result_files
from mace_studio.runtime.jobs import Job
from mace_studio.ui import form, notices
from mace_studio.ui.cards.base_model import BaseCard
from mace_studio.ui.cards.compose import ComposeCard
from mace_studio.ui.cards.export import ExportCard
from mace_studio.ui.components import model_list
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.components.progress import status_chip
from mace_studio.ui.components.text import heading, hint
from mace_studio.ui.gradio_compat import QUIET, download, enabled
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import ERASURES_CHANGED, MODEL_LOADED, PAGE_OPENED, SELECTED, Listener, Newest, Shared

PLACES = {"rename": ("New name", "#new-name input"), "upload": ("File", "")}

Update = dict[Any, Any]


class ModelsTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.newest, self.header = shared.studio, shared.newest, shared.header
        self.made = shared.made
        self.told = gr.State([])  # names of the models that the panels of the chosen one are about
        # Which are to be chosen. The list has one listener: of two that write it the page may show one answer alone.
        self.wanted = gr.State(model_list.NOTHING_WANTED)
        with gr.Row(elem_classes="columns", elem_id="models-columns"):
            with gr.Column(scale=7, min_width=340):
                self._list_card()
                self.compose = ComposeCard(self.studio, self.list, shared.controls, shared.jobs["compose"])
            with gr.Column(scale=4, min_width=340):
                self._details_card()
                self.export = ExportCard(self.studio, self.list, shared.jobs["export"])
                self.base = None if self.studio.fixed else BaseCard(self.studio, shared.jobs["base"])
        shown = [self.list, self.base.now] if self.base else [self.list]
        listing = Listener(self.on_open, self.wanted, shown, also=[self.wanted.change])
        self.listens = {
            PAGE_OPENED: [listing, self.export.job.resume],
            SELECTED: [listing],
            ERASURES_CHANGED: [listing],
            MODEL_LOADED: [listing],  # what fits is another
        }
        self.emits: dict[str, list[Any]] = {}
        self._wire(shared.tabs)
        self.recipe.click(self.on_recipe, self.list, [*shared.filled, shared.tabs], **QUIET)

    def _list_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="models-card"):
            heading("models-title", "", "Your models")
            self.list = model_list.model_list()
            with gr.Row(elem_classes="button-row", elem_id="models-buttons"):
                self.upload = gr.UploadButton(
                    "Open erasure file", size="sm", file_types=[".safetensors"], elem_id="open-erasure"
                )
            self.notice = notice("models-notice")

    def _details_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="details-card"):
            self.details = gr.HTML(
                model_list.NONE_CHOSEN, label="The chosen model", elem_classes="heading", elem_id="details"
            )
            with gr.Row(elem_classes="button-row", elem_id="details-buttons", visible=False) as self.buttons:
                self.compare = gr.Button("Compare", variant="primary", size="sm", elem_id="model-compare")
                self.recipe = gr.Button("Open its recipe", size="sm", elem_id="model-recipe")
                self.file = gr.DownloadButton("Download", size="sm", elem_id="model-file")
                self.rename = gr.Button("Rename", size="sm", visible=not self.studio.fixed, elem_id="rename")
                self.delete = gr.Button(
                    "Delete", variant="stop", size="sm", visible=not self.studio.fixed, elem_id="delete"
                )
            with gr.Column(visible=False, elem_classes="panel", elem_id="rename-panel") as self.renaming:
                self.new_name = gr.Textbox("", label="New name", max_lines=1, **enabled("new-name"))
                with gr.Row(elem_classes="button-row", elem_id="rename-buttons"):
                    self.save_name = gr.Button("Save name", size="sm", elem_id="save-name")
            with gr.Column(visible=False, elem_classes="panel", elem_id="delete-panel") as self.deleting:
                hint("delete-hint", "The file is removed from the disk for good.")
                with gr.Row(elem_classes="button-row", elem_id="delete-buttons"):
                    self.delete_now = gr.Button("Delete for good", variant="stop", size="sm", elem_id="delete-now")
                    self.keep = gr.Button("Keep it", size="sm", elem_id="keep")

    def _wire(self, tabs: gr.Tabs) -> None:
        panels = [self.renaming, self.deleting]
        shown = [self.details, self.buttons, self.file, *panels, self.new_name, self.compose.leave_out, self.told]
        self.list.change(self.on_choose, [self.list, self.compose.leave_out, self.told], shown, **QUIET)
        changed = [self.wanted, self.notice]
        listed = [self.upload.upload(self.on_upload, [self.upload, self.list], changed, **QUIET)]
        if not self.studio.fixed:
            listed += self._wire_changes(panels, changed)
        compared = self.compare.click(self.on_compare, self.list, [self.newest, tabs], **QUIET)
        self.emits[ERASURES_CHANGED] = [event.then for event in (compared, *listed)]
        self.compose.wire([self.wanted, self.newest], self._composed)
        self.listens[PAGE_OPENED].append(self.compose.job.resume)
        if self.base is not None:
            self.emits[MODEL_LOADED] = [self.base.wire([self.header], self._status).then]
            self.listens[PAGE_OPENED].append(self.base.job.resume)

    def _wire_changes(self, panels: list[gr.Column], changed: list[Any]) -> list[Any]:
        """Connect what a studio of one's own offers; returns the events after which the list is another."""
        self.rename.click(lambda: (gr.Column(visible=True), gr.Column(visible=False)), None, panels, **QUIET)
        self.delete.click(lambda: (gr.Column(visible=False), gr.Column(visible=True)), None, panels, **QUIET)
        self.keep.click(lambda: gr.Column(visible=False), None, self.deleting, **QUIET)
        named = [self.save_name.click, self.new_name.submit]
        shown, results = [*changed, self.newest], [self.newest, self.made]
        return [
            gr.on(named, self.on_rename, [self.list, self.new_name, *results], [*shown, self.made], **QUIET),
            self.delete_now.click(self.on_delete, [self.list, self.newest], shown, **QUIET),
        ]

    @readable
    def on_open(self, wanted: model_list.Wanted) -> Update:
        """List the models, with the same ones chosen or those that are wanted, and say which base model is loaded."""
        now = {self.base.now: model_list.base(self.studio.status())} if self.base else {}
        return {self.list: model_list.value(*self.studio.listing(), self.studio.status(), wanted)} | now

    @readable
    def on_choose(self, shown: dict[str, Any], leave_out: list[str], told: list[str]) -> Update:
        """Say what is chosen, and offer what can be done with it."""
        if shown and shown["chosen"] is None:  # what is chosen stays, and so what is said of it
            return {self.details: gr.skip()}
        names = model_list.chosen_in(shown)
        entries = [self.studio.entry(name) for name in names]
        phrases = [concept.phrase for entry in entries for concept in entry.recipe.concepts]
        listed, left_out = [(one, one) for one in dict.fromkeys(phrases)], [p for p in leave_out or [] if p in phrases]
        update: Update = {
            self.told: names,
            self.buttons: gr.Row(visible=len(entries) == 1),
            self.compose.leave_out: model_list.listing(gr.CheckboxGroup, listed, left_out, leave_out or []),
        }
        if names != told:  # else the list was made again, and the user may have opened one meanwhile
            update |= {panel: gr.Column(visible=False) for panel in (self.renaming, self.deleting)}
            update |= {self.new_name: entries[0].name} if len(entries) == 1 else {}
        if len(entries) != 1:
            return update | {self.details: model_list.several(entries) if entries else model_list.NONE_CHOSEN}
        local = not self.studio.fixed
        made = result_files.made_from(entries[0], self.studio.output) if local else {}
        return update | {
            self.details: model_list.details(entries[0], self.studio.status(), local=local, made=made),
            self.file: download(entries[0].path),
        }

    @readable
    def on_upload(self, path: str, shown: dict[str, Any]) -> Update:
        """Put an uploaded erasure into the list."""
        try:
            self.studio.check_room()
            entry = library.add(self.studio.output, Path(path), Path(path).name)
        except StudioError as error:
            return {self.notice: notices.problem(error, PLACES)}
        return {self.notice: CLEAR, self.wanted: model_list.wanted([entry.name])}

    @readable
    def on_rename(self, shown: dict[str, Any], new: str, newest: Newest, made: str) -> Update:
        """Give the chosen model another name."""
        old = _one(shown)
        try:
            entry = library.rename(self.studio.output, old, new)
        except StudioError as error:
            return {self.notice: notices.problem(error, PLACES)}
        update: Update = {self.notice: CLEAR, self.wanted: model_list.wanted([entry.name])}
        update |= {self.made: entry.name} if made == old else {}
        return update | ({self.newest: newest._replace(name=entry.name)} if newest.name == old else {})

    @readable
    def on_delete(self, shown: dict[str, Any], newest: Newest) -> Update:
        """Remove the chosen model's file."""
        name = _one(shown)
        try:
            library.delete(self.studio.output, name)
        except StudioError as error:
            return {self.notice: notices.plain(error)}
        update: Update = {self.notice: CLEAR, self.wanted: model_list.wanted([])}
        return update | ({self.newest: newest._replace(name="")} if newest.name == name else {})

    @readable
    def on_compare(self, shown: dict[str, Any]) -> tuple[Newest, Any]:
        """Choose this model in the other tabs, and go to the first of them."""
        return Newest.of(_one(shown)), gr.Tabs(selected="compare")

    @readable
    def on_recipe(self, shown: dict[str, Any]) -> list[Any]:
        """Fill the form with the chosen model's recipe, and go there."""
        return [*form.filling(self.studio.entry(_one(shown)).recipe), gr.Tabs(selected="erase")]

    def _composed(self, job: Job) -> Update:
        return {self.wanted: model_list.wanted([job.result.name]), self.newest: Newest.of(job.result.name)}

    def _status(self) -> Update:
        return {self.header: status_chip(self.studio)}


def _one(shown: dict[str, Any]) -> str:
    names = model_list.chosen_in(shown)
    return names[0] if len(names) == 1 else ""
