"""Small live charts: shapes in a stretched SVG, words in HTML, so that text keeps its size at every width."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mace_studio.settings import TIMESTEPS
from mace_studio.ui.components.text import number_text

Points = Sequence[tuple[float, float]]
SHOWN_LOSSES = 8
COLOURS = ("var(--line-1)", "var(--line-2)", "var(--line-3)", "var(--line-4)")
LOSS_MEANING = (
    '<p class="hint">How much the model still looks at the concept where it is in its training images: lower is more '
    "erased. Every step has another image and timestep, so single values jump; the thick line is their "
    "running mean.</p>"
)

TRAINING_MEANING = (
    '<p class="hint">How far the model is from what it is trained towards: lower is closer, not by itself more erased. '
    "Every step has another prompt, noise and timestep, so single values jump; the thick line is their running "
    "mean.</p>"
)


@dataclass(frozen=True)
class Axis:
    """An axis from `start` to `end`, with a tick every `every`."""

    start: float
    end: float
    every: float

    def place(self, value: float) -> float:
        """Where a value is, in percent of the axis."""
        return 100 * (value - self.start) / (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of each tick."""
        count = int((self.end - self.start) / self.every + 1e-9)
        values = [self.start + i * self.every for i in range(count + 1)]
        return [(self.place(v), f"{v:.6g}") for v in values]


def timestep_chart(t1: object, t2: object, gamma: object, uniform: bool) -> str | None:
    """`timestep_curve` of what is typed in the form, or None while one of the numbers is being typed."""
    try:
        first, last, steepness = (float(str(value)) for value in (t1, t2, gamma))
    except ValueError:
        return None
    return timestep_curve(first, last, steepness, bool(uniform)) if first < last and steepness > 0 else None


def timestep_curve(t1: float, t2: float, gamma: float, uniform: bool) -> str:
    """The density xi(t) of Eq. 5 over the training timesteps, relative to its highest value."""
    if uniform:
        heights, said = [1.0, 1.0], "Every timestep is sampled equally often."
    else:
        step = TIMESTEPS // 200
        heights = [xi(t, t1, t2, gamma) for t in range(0, TIMESTEPS + 1, step)]
        said = f"Timesteps between {t1:g} and {t2:g} are sampled most often."
    highest = max(heights) or 1.0
    points = [(100 * i / (len(heights) - 1), 92 * h / highest) for i, h in enumerate(heights)]
    marks = "" if uniform else _mark(t1, "t₁") + _mark(t2, "t₂")
    path = " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in [(0, 0), *points, (100, 0)])
    area = f'<polygon points="{path}" fill="var(--line-1)" opacity=".13"/>'
    body = area + _line(points, "var(--line-1)", 2)
    chart = _chart(said, body, Axis(0, TIMESTEPS, 200), None, marks)
    return _titled("ξ(t): how often each timestep is sampled", "timestep t", chart)


def loss_curves(losses: dict[str, list[float]], steps: int, live: Sequence[str], squared: bool | None) -> str:
    """The losses of the last concepts; those that train at the moment stand out.

    Args:
        losses: phrase -> loss at each step so far.
        steps: how many steps a concept has.
        live: phrases that train at the moment.
        squared: the loss is of squared norms; None for the loss of another method than MACE.
    """
    shown = {p: losses[p] for p in list(losses)[-SHOWN_LOSSES:]}
    smooth = {p: smoothed(values) for p, values in shown.items()}
    finite = [v for values in shown.values() for v in values if math.isfinite(v)] or [0.0, 1.0]
    up = _value_axis(min(finite), max(finite))
    across = Axis(0, max(steps, 1), max(1.0, _tick(steps)))
    body, legend = "", ""
    for i, (phrase, values) in enumerate(shown.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [(across.place(j + 1), up.place(v)) for j, v in enumerate(values) if math.isfinite(v)]
        body += f'<g opacity=".3">{_line(points, colour, 1)}</g>'
        points = [(across.place(j + 1), up.place(v)) for j, v in enumerate(smooth[phrase]) if math.isfinite(v)]
        body += _line(points, colour, 2.2 if phrase in live else 1.6)
        change = f"{smooth[phrase][0]:.3g} → {smooth[phrase][-1]:.3g}"
        legend += f'<span><i style="background:{colour}"></i>{html.escape(phrase)} <b>{change}</b></span>'
    more = f"<span>and {len(losses) - len(shown)} more</span>" if len(losses) > len(shown) else ""
    changes = "; ".join(f"{p}: {v[0]:.3g} to {v[-1]:.3g} after {len(v)} steps" for p, v in smooth.items())
    title = f"Attention loss (sum of {'squared ' if squared else ''}norms)" if squared is not None else "Training loss"
    chart = _chart(f"{title}. {changes or 'No step yet.'}", body, across, up)
    step, meaning = ("LoRA step", LOSS_MEANING) if squared is not None else ("step of the concept", TRAINING_MEANING)
    return _titled(title, step, chart) + f'<div class="legend">{legend}{more}</div>{meaning}'


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and of those before it, at most a fifth of all."""
    window = max(1, len(values) // 5)
    return [math.fsum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]


def xi(t: float, t1: float, t2: float, gamma: float) -> float:
    """The density of Eq. 5 at a timestep, up to a factor."""
    return _sigmoid(gamma * (t - t1)) * _sigmoid(-gamma * (t - t2))


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _tick(span: float) -> float:
    """A round distance that parts `span` into about four."""
    rough = max(span, 1e-12) / 4
    scale = 10 ** math.floor(math.log10(rough))
    return next(scale * m for m in (1, 2, 5, 10) if scale * m >= rough)


def _value_axis(low: float, high: float) -> Axis:
    """From 0, unless all values lie so far above it that they would look alike."""
    start = low if low > high / 2 > 0 else 0.0
    every = _tick(high - start or high or 1.0)
    start = math.floor(start / every) * every
    return Axis(start, max(math.ceil(high / every) * every, start + every), every)


def _chart(said: str, body: str, across: Axis, up: Axis | None, marks: str = "") -> str:
    rows = [(y, text) for y, text in (up.ticks() if up else [(0.0, "")])]
    grid = "".join(f'<line x1="0" x2="100" y1="{100 - y:.2f}" y2="{100 - y:.2f}" class="grid"/>' for y, _ in rows)
    words = "".join(f'<span class="y" style="bottom:{y:.2f}%">{text}</span>' for y, text in rows)
    words += "".join(f'<span class="x" style="left:{x:.2f}%">{text}</span>' for x, text in across.ticks())
    shapes = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{grid}{body}</svg>'
    wide = "chart has-y" if up else "chart"
    return f'<div class="{wide}" role="img" aria-label="{html.escape(said)}">{shapes}{words}{marks}</div>'


def _titled(title: str, below: str, chart: str) -> str:
    return f'<div class="chart-box"><p class="chart-title">{title}<span>{below} →</span></p>{chart}</div>'


def _line(points: Points, colour: str, width: float) -> str:
    path = " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _mark(t: float, name: str) -> str:
    if not 0 <= t <= TIMESTEPS:
        return ""
    left = 100 * t / TIMESTEPS
    side = "is-left" if name == "t₁" else "is-right"
    return f'<i class="mark {side}" style="left:{left:.2f}%"><b>{name} {number_text(t)}</b></i>'
