"""The training images with their masks: shown before a run, and corrected by hand where the user knows better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import numpy as np
from PIL import Image

from mace_studio import masks
from mace_studio.errors import FileError, RecipeError
from mace_studio.masks import Key, MaskedImage, MaskSheet
from mace_studio.recipe import Recipe
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import mask_grid
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.components.text import heading, hint
from mace_studio.ui.gradio_compat import PICKED, QUIET, enabled, image_file
from mace_studio.ui.notices import readable

ALL = "All concepts"
AT_ONCE = 48  # images in the gallery, before it shows one concept at a time
CANVAS = 512  # pixels along the longer side of the canvas
# White is invisible on snow and pink on pink, so there is a choice; all colours count alike.
PAINTS = ("#ff2e93a0", "#00b7ffa0", "#ffffffb0")
OPAQUE = 40  # alpha from which a pixel counts as painted
STOPPED = "This was stopped before all images were there; show the masks again for the others."

# On a phone the editor is below all images.
SHOW_EDITOR = """() => {
  if (innerWidth <= 700) document.querySelector("#mask-panel").scrollIntoView({ block: "start" });
}"""

Update = dict[Any, Any]


class MasksCard:
    """Builds the card; `wire` connects it once the form is built.

    Args:
        studio: generates and masks.
        job_id: from `gradio_compat.remembered`.

    Attributes:
        job: the job that this browser watches.
        sheet: what it made, with the masks that the user made since; None before.
    """

    def __init__(self, studio: Studio, job_id: gr.BrowserState) -> None:
        self.studio = studio
        self._before: WeakKeyDictionary[Job, MaskSheet] = WeakKeyDictionary()  # what was shown when a job began
        self._stopped: WeakKeyDictionary[Job, MaskSheet] = WeakKeyDictionary()  # what there is of one that was stopped
        self.sheet = gr.State(None)
        self.chosen = gr.State(None)
        # The key of the image in the editor, kept by the browser: what is painted there may be that of an earlier one
        # than the one that was pressed last.
        self.shown = gr.JSON(None, label="The image in the editor", elem_id="mask-shown", visible=False)
        with gr.Column(elem_classes="card expert", elem_id="masks-card"):
            heading(
                "masks-title",
                "",
                "Training images and masks",
                "Each LoRA learns to look away from the bright part of its images.",
            )
            with gr.Row(elem_classes="columns", elem_id="masks-columns"):
                with gr.Column(scale=7, min_width=330):
                    self.job = JobCard(self.studio, "masks", [("show-masks", "Show masks")], job_id, main=False)
                    self.status = gr.HTML("", label="Masks by hand", elem_id="masks-status")
                    self.concept = gr.Dropdown([], label="Concept", visible=False, **enabled("masks-concept"))
                    self.grid = mask_grid.grid()
                with gr.Column(scale=5, min_width=330, visible=False, elem_classes="panel", elem_id="mask-panel") as (
                    self.panel
                ):
                    self._editor()

    def _editor(self) -> None:
        self.title = gr.HTML(
            mask_grid.NOTHING_CHOSEN, label="The chosen image", elem_classes="heading", elem_id="mask-title"
        )
        self.editor = gr.ImageEditor(
            label="Mask",
            show_label=False,
            type="pil",
            format="png",
            sources=(),
            transforms=(),
            brush=gr.Brush(40, list(PAINTS), PAINTS[0], "fixed"),
            eraser=gr.Eraser(40),
            layers=gr.LayerOptions(allow_additional_layers=False, layers=["Mask"], disabled=True),
            canvas_size=(CANVAS, CANVAS),
            height=430,
            buttons=[],
            **enabled("mask-editor"),
        )
        with gr.Column(visible=False, elem_id="mask-tools") as self.tools:
            self._tools()

    def _tools(self) -> None:
        self.notice = notice("mask-notice")
        with gr.Row(elem_classes="button-row", elem_id="mask-buttons"):
            self.use = gr.Button("Use this mask", variant="primary", size="sm", elem_id="use-mask")
            self.whole = gr.Button("Whole image", size="sm", elem_id="whole-image")
            self.back = gr.Button("Back to the source’s mask", size="sm", elem_id="source-mask")
            self.upload = gr.UploadButton(
                "Upload mask",
                size="sm",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                type="binary",
                elem_id="upload-mask",
            )
        hint("mask-hint", "Paint where the concept is. An uploaded image counts where it is white.")

    def wire(self, controls: list[Any]) -> None:
        """Connect the button, the grid and the editor."""
        made = [self.sheet, self.chosen, self.shown, self.grid, self.concept]
        made += [self.panel, self.title, self.editor, self.tools]
        shows = Shows(begun=self._begun, found=self._so_far, done=lambda job: self._images(job, job.result))
        self.job.wire([self.on_show], [self.sheet, *controls], [self.status, *made], shows)
        self.concept.change(self.on_concept, [self.sheet, self.concept], self.grid, **QUIET)
        opened = [self.chosen, self.shown, self.title, self.editor, self.tools]
        in_turn = PICKED | {"concurrency_id": "masks"}  # a button is about the image that was pressed before it
        picked = self.grid.pick(self.on_choose, self.sheet, opened, **in_turn)
        picked.then(None, js=SHOW_EDITOR)
        chosen, changed = [self.sheet, self.chosen, self.concept], [self.grid, self.title, self.editor, self.notice]
        painted_on = [self.sheet, self.shown, self.chosen, self.concept, self.editor]
        self.use.click(self.on_use, painted_on, changed, **in_turn)
        self.whole.click(self.on_whole, chosen, changed, **in_turn)
        self.back.click(self.on_back, chosen, changed, **in_turn)
        self.upload.upload(self.on_upload, [*chosen, self.upload], changed, **in_turn)

    def on_show(self, sheet: MaskSheet | None, *values: Any) -> Job:
        """Generate and mask the training images of the form's recipe; the user's masks that still fit are kept."""
        job = self.studio.masks(form.recipe_from(values))
        if sheet is not None:
            self._before[job] = sheet
        return job

    def status_of(self, sheet: MaskSheet | None, recipe: Recipe) -> Update:
        """Say whether what is shown is still what the form asks for, and what becomes of the user's masks."""
        if sheet is None:
            return {}
        try:
            recipe.check()  # what it asks for is counted out below
        except RecipeError:
            return {}
        return {self.status: mask_grid.status(sheet, recipe)}

    @readable
    def on_concept(self, sheet: MaskSheet | None, concept: str | None) -> Any:
        """Show the images of one concept, or of all."""
        return mask_grid.tiles(sheet, _listed(sheet, concept)) if sheet else gr.skip()

    @readable
    def on_choose(self, sheet: MaskSheet, event: gr.EventData) -> Update:
        """Open the pressed image in the editor."""
        one = _at(sheet, event.key)
        if one is None:
            return {self.chosen: gr.skip()}
        return {
            self.chosen: one.key,
            self.shown: list(one.key),
            self.tools: gr.Column(visible=True),
            self.title: mask_grid.title(sheet, one),
            self.editor: canvas(one.image, sheet.mask(one)),
        }

    @readable
    def on_use(
        self, sheet: MaskSheet, shown: list[Any] | None, chosen: Key, concept: str, edited: dict[str, Any] | None
    ) -> Update:
        """Use what is painted in the editor, for the image that was there when the button was pressed."""
        mask = painted(edited)
        if mask is None:
            text = "Nothing is painted. Paint where the concept is, or press Whole image."
            return {self.notice: {"text": text, "target": ""}}
        one = _at(sheet, shown)
        if one is None:
            return {self.grid: gr.skip()}
        sheet.user_masks[one.key] = mask
        changed = self._changed(sheet, one.key, concept)
        del changed[self.editor]  # it shows the mask already
        return changed if one.key == chosen else {self.grid: changed[self.grid]}

    @readable
    def on_whole(self, sheet: MaskSheet, key: Key, concept: str) -> Update:
        """Use the whole image."""
        if (one := _at(sheet, key)) is not None:
            sheet.user_masks[key] = masks.full(one.image.size)
        return self._changed(sheet, key, concept)

    @readable
    def on_back(self, sheet: MaskSheet, key: Key, concept: str) -> Update:
        """Use the mask that the recipe's source found."""
        sheet.user_masks.pop(key, None)
        return self._changed(sheet, key, concept)

    @readable
    def on_upload(self, sheet: MaskSheet, key: Key, concept: str, data: bytes) -> Update:
        """Use a mask from a file."""
        try:
            sheet.user_masks[key] = masks.from_bytes(data)
        except FileError as error:
            return {self.notice: {"text": str(error), "target": ""}}
        return self._changed(sheet, key, concept)

    def _changed(self, sheet: MaskSheet, key: Key, concept: str) -> Update:
        one = _at(sheet, key)
        if one is None:  # others are shown since the button was pressed
            return {self.grid: gr.skip()}
        return {
            self.grid: mask_grid.tiles(sheet, _listed(sheet, concept)),
            self.title: mask_grid.title(sheet, one),
            self.editor: canvas(one.image, sheet.mask(one)),
            self.notice: CLEAR,
        }

    def _begun(self, job: Job) -> Update:
        return self._closed() | {self.grid: [], self.concept: gr.Dropdown(visible=False), self.status: ""}

    def _so_far(self, job: Job, found: list[Any]) -> Update:
        """The images that have their masks; of a job that was stopped, with those that the user makes from then on."""
        images = [one for one in found if isinstance(one, MaskedImage)]
        if not job.over:
            return {self.grid: mask_grid.tiles(MaskSheet(job.request, images), images[-AT_ONCE:], closed=True)}
        if job.state == DONE:
            return {}
        if job not in self._stopped and images:
            self._stopped[job] = MaskSheet(job.request, images, warnings=[STOPPED])
        sheet = self._stopped.get(job) or self._before.get(job)
        return self._images(job, sheet) if sheet else {}

    def _closed(self) -> Update:
        """No image in the editor."""
        return {
            self.chosen: None,
            self.shown: None,
            self.title: mask_grid.NOTHING_CHOSEN,
            self.editor: None,
            self.tools: gr.Column(visible=False),
        }

    def _images(self, job: Job, sheet: MaskSheet) -> Update:
        before = self._before.get(job)
        if before is not None and before is not sheet:
            sheet.user_masks |= before.fitting(sheet.recipe)
            sheet.dropped = len(before.user_masks) - len(sheet.user_masks)
        choices = list(dict.fromkeys(one.phrase for one in sheet.images))
        choices = [ALL, *choices] if len(sheet.images) <= AT_ONCE else choices
        return self._closed() | {
            self.sheet: sheet,
            # The editor is there before it gets an image: one that it begins with it would load twice (Gradio 6.31).
            self.panel: gr.Column(visible=True),
            self.concept: gr.Dropdown(choices, value=choices[0], visible=len(choices) > 2 or choices[0] != ALL),
            self.grid: mask_grid.tiles(sheet, _listed(sheet, choices[0])),
            self.status: mask_grid.status(sheet, sheet.recipe),
        }


def fitting_masks(sheet: MaskSheet | None, recipe: Recipe) -> masks.UserMasks:
    """The user's masks that fit the training images of a recipe.

    Raises:
        RecipeError: the recipe cannot be run.
    """
    return {} if sheet is None else sheet.fitting(recipe.check())


def canvas(image: Image.Image, mask: Image.Image | None) -> dict[str, Any]:
    """What the editor shows, as files: an image, and its mask painted on a layer over it."""
    scale = CANVAS / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    layer = Image.new("RGBA", size)
    if mask is not None:
        layer.paste(PAINTS[0], mask=mask.resize(size, Image.Resampling.NEAREST))
    return {"background": image_file(image.resize(size, smooth)), "layers": [image_file(layer)], "composite": None}


def painted(edited: dict[str, Any] | None) -> Image.Image | None:
    """What was painted in the editor, as a mask; None where nothing was."""
    layers = (edited or {}).get("layers") or []
    inside = np.logical_or.reduce([np.asarray(layer.convert("RGBA"))[..., 3] >= OPAQUE for layer in layers])
    return Image.fromarray(inside.astype(np.uint8) * 255) if inside.any() else None


def _listed(sheet: MaskSheet, concept: str | None) -> list[MaskedImage]:
    """The images in the gallery."""
    return [one for one in sheet.images if concept in (ALL, one.phrase)]


def _at(sheet: MaskSheet | None, key: Sequence[Any] | None) -> MaskedImage | None:
    """The image with this key, which may come from the browser as a list; None where it is shown no more."""
    return next((one for one in sheet.images if list(one.key) == list(key)), None) if sheet and key else None
