"""Figures of a report as SVG text: curves and routing maps."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display, whatever the machine has
import matplotlib.pyplot as plt

INK, FAINT = "#22303c", "#8a97a3"
BLUE, ORANGE = "#2a6f97", "#d1603d"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "svg.fonttype": "none",  # text stays text: sharp, searchable, and in the page's own font
}


def curves(data: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, best_step: int) -> str:
    """Loss and validation metric over steps, the chosen step marked."""
    train, validation = data["train"], data["validation"]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.7), layout="constrained")
        left.plot([e["step"] for e in train], [e["loss"] for e in train], color=BLUE, lw=0.7, alpha=0.35)
        left.plot(
            [e["step"] for e in train],
            smooth([e["loss"] for e in train]),
            color=BLUE,
            lw=1.6,
            label="training",
        )
        steps = [e["step"] for e in validation]
        left.plot(
            steps,
            [e["metrics"]["loss"] for e in validation],
            "o-",
            color=ORANGE,
            ms=4,
            lw=1.2,
            label="validation",
        )
        left.set(xlabel="step", title="loss", ylim=(0, None))
        left.legend(frameon=False)
        values = [e["metrics"][metric] for e in validation]
        right.plot(steps, values, "o-", color=ORANGE, ms=4, lw=1.2)
        chosen = values[steps.index(best_step)]
        right.plot([best_step], [chosen], "o", color=ORANGE, ms=9, mfc="none")
        right.annotate(
            f"{chosen:.4g}", (best_step, chosen), xytext=(0, -15), textcoords="offset points", ha="center"
        )
        right.margins(0.1, 0.25)
        right.set(xlabel="step", title=f"validation {metric}")
        return svg(figure)


def routing_map(routing: Mapping[str, Any]) -> str:
    """Mean gate weight of experts (columns) at fusion points (rows), one map per stream on one scale."""
    experts, points = routing["experts"], routing["points"]
    streams = sorted({stream for point in points for stream in point})
    kinds = [name.rpartition(" ")[0] for name in experts]
    top = max(2 / len(experts), *(max(weights) for point in points for weights in point.values()))
    with plt.rc_context({**STYLE, "axes.grid": False}):
        width = 1.0 + len(streams) * max(2.6, 0.42 * len(experts))
        figure, axes = plt.subplots(
            1,
            len(streams),
            figsize=(width, 1.5 + 0.32 * len(points)),
            layout="constrained",
            squeeze=False,
            sharey=True,
        )
        for axis, stream in zip(axes[0], streams, strict=True):
            grid = [point.get(stream, [float("nan")] * len(experts)) for point in points]
            image = axis.imshow(grid, cmap="YlGnBu", vmin=0, vmax=top, aspect="auto")
            for y, row in enumerate(grid):
                for x, weight in enumerate(row):
                    dark = weight > 0.6 * top
                    axis.text(
                        x,
                        y,
                        f"{100 * weight:.0f}",
                        ha="center",
                        va="center",
                        size=7,
                        color="white" if dark else INK,
                    )
            axis.set(title=f"stream {stream}", yticks=range(len(points)), xticks=range(len(experts)))
            axis.set_xticklabels(experts, rotation=40, ha="right", rotation_mode="anchor")
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            for x in range(1, len(kinds)):
                if kinds[x] != kinds[x - 1]:
                    axis.axvline(x - 0.5, color="white", lw=3)
        axes[0][0].set_ylabel("fusion point")
        bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=0.9, aspect=12, pad=0.02)
        bar.ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        bar.outline.set_visible(False)
        return svg(figure)


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start."""
    result, mean = [], 0.0
    for i, value in enumerate(values):
        mean = keep * mean + (1 - keep) * value
        result.append(mean / (1 - keep ** (i + 1)))
    return result


def svg(figure: Any) -> str:
    """The figure as an `<svg>` element that scales with the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(
        r'<svg([^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'<svg\1 style="width:\2pt"', text, count=1
    )
