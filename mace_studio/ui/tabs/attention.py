"""The Attention tab: what the model looks at for each word, before and after, and what the other words carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from mace_studio.methods import usual_guidance
from mace_studio.prompts import suggestions
from mace_studio.runtime import result_files
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.ui import form, kinds
from mace_studio.ui.cards.job import JobCard, Shows, results
from mace_studio.ui.components import attention_maps
from mace_studio.ui.components.attention_maps import ALL_HEADS, ALL_LAYERS
from mace_studio.ui.components.model_list import erased_models, listing
from mace_studio.ui.components.text import heading, hint, number_text
from mace_studio.ui.components.token_counter import counted
from mace_studio.ui.form import GENERATED_STEPS
from mace_studio.ui.gradio_compat import QUIET, WAITING, Offer, download, enabled, offer
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener, Newest, Shared, of_an_erasure

if TYPE_CHECKING:
    from mace_studio.analysis.attention import Inspection

AS_IT_IS = "None: the model as it is"
FILES = (("-maps.pdf", "Figure of all layers, PDF"), (".npz", "Data, NPZ"))
PLACES = {
    "prompt": ("Prompt", "#attention-prompt textarea"),
    "seed": ("Seed", "#attention-seed input"),
    "steps": ("Steps", "#attention-steps input"),
    "guidance": ("Guidance", "#attention-guidance input"),
}

Update = dict[Any, Any]


class AttentionTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.job_id = shared.studio, shared.jobs["attention"]
        self.usual = number_text(usual_guidance(shared.start))
        self.suggested, self.usually = (
            offer("attention-prompt", ""),
            offer("attention-settings", GENERATED_STEPS, self.usual),
        )
        self.inspected = gr.State("")  # the job whose maps are shown, and how many runs of one that goes on
        with gr.Row(elem_classes="columns", elem_id="attention-columns"):
            with gr.Column(scale=4, min_width=310):
                self._prompt_card()
                self._mass_card()
            with gr.Column(scale=10, min_width=330):
                self._maps_card()
        self._wire()
        seen = gr.State(None)  # the last request that this tab has answered
        choose = Listener(self.on_open, [shared.newest, seen, self.name], [self.name, seen])
        settings = [self.steps, self.guidance]
        loaded = Listener(self.on_model_loaded, settings, self.usually, fills=[self.usually, *settings])
        self.listens = of_an_erasure(choose, self.job.resume, loaded)
        self.emits: dict[str, list[Any]] = {}

    def _prompt_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="attention-card"):
            heading("attention-title", "", "What to look at", "One prompt and one seed, with both models.")
            self.name = gr.Dropdown(
                [AS_IT_IS],
                value=AS_IT_IS,
                label="Erased model",
                info="The Erase tab makes them",
                **enabled("attention-model"),
            )
            self.prompt = gr.Textbox("", label="Prompt", lines=2, **enabled("attention-prompt"))
            counted(self.studio, self.prompt)
            with gr.Row(elem_classes="triple-grid", elem_id="attention-settings"):
                self.seed = self._number("0", "Seed", "attention-seed")
                self.steps = self._number(GENERATED_STEPS, "Steps", "attention-steps")
                self.guidance = self._number(self.usual, "Guidance", "attention-guidance")
            self.negative = gr.Textbox(
                "",
                label="Negative prompt",
                info="What to steer away from",
                max_lines=2,
                **enabled("attention-negative"),
            )
            counted(self.studio, self.negative)
            buttons = [("read", "Read attention"), ("residual", "Residual experiment")]
            self.job = JobCard(self.studio, "attention", buttons, self.job_id, PLACES)
            hint(
                "residual-hint",
                "The residual experiment shows what the other words carry: the concept’s words are replaced by the end "
                "token, with the original weights, after the refinement alone, and after the whole erasure.",
            )

    def _number(self, value: str, label: str, elem_id: str) -> gr.Textbox:
        return gr.Textbox(value, label=label, max_lines=1, min_width=70, **enabled(elem_id))

    def _mass_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="mass-card"):
            heading("mass-title", "", "Attention mass", "Each word’s share, over all layers, heads and steps.")
            self.mass = gr.HTML(attention_maps.EMPTY, label="Attention mass", apply_default_css=False, elem_id="mass")

    def _maps_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="maps-card"):
            heading(
                "maps-title",
                "",
                "Cross-attention of every word",
                "Press a word to enlarge it; point at a map to read it.",
            )
            with gr.Row(elem_classes="triple-grid", elem_id="maps-settings"):
                self.group = self._choice([ALL_LAYERS], "Layers", "Where in the UNet", "maps-layers")
                self.head = self._choice([ALL_HEADS], "Heads", "Parts of a layer that look on their own", "maps-heads")
                self.side = self._choice(
                    list(attention_maps.SIDES)[:1],
                    "Half",
                    "Of each step: with your prompt, or the negative one",
                    "maps-side",
                )
            self.maps = attention_maps.viewer()
            self.presence = gr.HTML("", label="What the judge sees", elem_id="presence")
            with gr.Row(elem_classes="button-row", elem_id="maps-files"):
                self.files = [
                    gr.DownloadButton(text, size="sm", interactive=False, elem_id=f"maps-file-{i}")
                    for i, (_, text) in enumerate(FILES)
                ]

    def _choice(self, choices: list[str], label: str, info: str, elem_id: str) -> gr.Dropdown:
        return gr.Dropdown(choices, value=choices[0], label=label, info=info, min_width=120, **enabled(elem_id))

    def _wire(self) -> None:
        asked = [self.name, self.prompt, self.suggested, self.seed, self.steps, self.guidance, self.negative]
        views = [self.group, self.head, self.side]
        shown = [self.mass, *views, self.maps, self.presence, *self.files, self.inspected]
        shows = Shows(begun=self._begun, found=self._so_far, done=lambda job: self._inspection(job.result, job.id))
        self.job.wire([self.on_read, self.on_residual], asked, shown, shows)
        self.inspected.change(self.on_files, self.inspected, self.files, **WAITING)
        # Drawn as the choices are by then, and in the order asked, or an older answer could stand over a newer.
        asking = [self.inspected.change, *(choice.input for choice in views)]
        gr.on(asking, self.on_view, [self.job_id, *views], [self.head, self.maps], concurrency_limit=1, **QUIET)
        chosen = Listener(
            self.on_model, [self.name, self.suggested], self.suggested, fills=[self.suggested, self.prompt]
        )
        chosen.on(self.name.change)

    @readable
    def on_open(self, newest: Newest, seen: int | None, chosen: str | None) -> tuple[Any, int]:
        """List the erased models, with the newest chosen once."""
        return erased_models(self.studio, newest, seen, chosen, AS_IT_IS), newest.asked

    @readable
    def on_model_loaded(self, steps: str, guidance: str) -> Offer:
        """Fill in what suits a distilled model, unless the user typed something else."""
        return form.usual_settings(self.studio, steps, guidance, self.usual)

    @readable
    def on_model(self, name: str | None, suggested: Offer) -> Offer:
        """Put a prompt about the first concept into the box, unless the user typed another."""
        before = suggested[0][1]
        return [[before, self._asked(name, before, suggested)]]

    def _asked(self, name: str | None, prompt: str, suggested: Offer) -> str:
        """The prompt; where nobody typed it, that of the chosen model, which may be chosen just now."""
        if not _erased(name) or prompt.strip() != suggested[0][1]:
            return prompt.strip()
        recipe = self.studio.entry(_erased(name)).recipe
        return suggestions(recipe, kinds.of_kept(recipe, self.studio.vocabulary()))[0][1]

    def on_read(self, name: str | None, prompt: str, suggested: Offer, *settings: str) -> Job:
        """Read the attention before and after."""
        asked = self._asked(name, prompt, suggested)
        return self.studio.inspect(_erased(name) or None, form.images_from([asked], *settings))

    def on_residual(self, name: str | None, prompt: str, suggested: Offer, *settings: str) -> Job:
        """Generate what is left without the concept's words."""
        asked = self._asked(name, prompt, suggested)
        return self.studio.residual(_erased(name), form.images_from([asked], *settings))

    @readable
    def on_view(self, job_id: str, group: str, head: str, side: str) -> tuple[Any, Any]:
        """Show the maps of what is read so far. Another layer group may have another number of heads."""
        job = self.studio.job(job_id)
        found = [] if job is None else [job.result] if job.state == DONE else results(job)
        if not found:
            return gr.skip(), gr.skip()
        heads = attention_maps.heads(found[-1], group)
        kept = head if head in heads else ALL_HEADS
        return listing(gr.Dropdown, heads, kept, head), attention_maps.shown(found[-1], group, kept, side)

    @readable
    def on_files(self, job_id: str) -> list[Any]:
        """Write the files to download: an event of its own, or none could be begun here until they are written."""
        inspection = self.job.result(job_id)
        if inspection is None:
            return [gr.skip()] * len(FILES)
        paths = result_files.write_inspection(inspection, self.studio.output / "attention")
        files = [next(path for path in paths if path.name.endswith(ending)) for ending, _ in FILES]
        return [download(path, interactive=True) for path in files]

    def _begun(self, job: Job) -> Update:
        first = next(iter(attention_maps.SIDES))
        return {
            self.group: gr.Dropdown([ALL_LAYERS], value=ALL_LAYERS),
            self.head: gr.Dropdown([ALL_HEADS], value=ALL_HEADS),
            self.side: gr.Dropdown([first], value=first),
            self.maps: {},
            self.mass: attention_maps.EMPTY,
            self.presence: "",
            **{button: gr.DownloadButton(interactive=False) for button in self.files},
        }

    def _so_far(self, job: Job, found: list[Inspection]) -> Update:
        return self._inspection(found[-1], f"{job.id} {len(found)}") if found and job.state != DONE else {}

    def _inspection(self, inspection: Inspection, name: str) -> Update:
        """What there is to choose from; what is chosen stays, since the user may have done that meanwhile."""
        return {
            self.group: gr.Dropdown(attention_maps.groups(inspection)),
            self.side: gr.Dropdown(attention_maps.sides(inspection)),
            self.mass: attention_maps.mass_bars(inspection),
            self.presence: attention_maps.presence(inspection),
            self.inspected: name,
        }


def _erased(name: str | None) -> str:
    return "" if name is None or name == AS_IT_IS else name
