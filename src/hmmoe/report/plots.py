"""Figures of a comparison as SVG text: values by method, values against parameters, learning curves."""

import math
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from hmmoe.report.figures import BLUE, FAINT, INK, ORANGE, STYLE, svg

COLUMNS = 4  # of small learning curves
LINE = 11.0  # points from one label to the next


def strips(values: Mapping[str, Sequence[float]], metric: str) -> str:
    """A line of points per method, one point per seed, with a tick at their mean; in the given order."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 0.7 + 0.28 * len(values)), layout="constrained")
        for y, seeds in enumerate(values.values()):
            color = ORANGE if y == 0 else BLUE
            mean = statistics.mean(seeds)
            axis.plot(seeds, [y] * len(seeds), "o", color=color, ms=5, alpha=0.55, mew=0)
            axis.plot([mean], [y], "|", color=color, ms=15, mew=2)
            axis.annotate(
                f"{mean:.2f}", (1.01, y), xycoords=("axes fraction", "data"), va="center", color=INK
            )
        axis.set(yticks=range(len(values)), xlabel=f"test {metric}", ylim=(len(values) - 0.4, -0.6))
        axis.set_yticklabels(list(values))
        axis.tick_params(length=0)
        axis.margins(x=0.04)
        return svg(figure)


def against_share(values: Mapping[str, Sequence[float]], shares: Mapping[str, float], metric: str) -> str:
    """Mean value (with the seeds' range) over the share of parameters that a method trains, in percent."""
    percent = {name: 100 * shares[name] for name in values}
    means = {name: statistics.mean(values[name]) for name in values}
    with plt.rc_context(STYLE):
        height = 3.2 + 0.06 * len(values)
        figure, axis = plt.subplots(figsize=(8.4, height), layout="constrained")
        for i, (name, seeds) in enumerate(values.items()):
            color = ORANGE if i == 0 else BLUE
            x = percent[name]
            axis.plot([x, x], [min(seeds), max(seeds)], color=color, lw=1, alpha=0.5)
            axis.plot([x], [means[name]], "o", color=color, ms=6)
        axis.set_xscale("symlog", linthresh=0.1, linscale=0.4)
        top = max(1.0, *percent.values())
        axis.set(
            xlabel="trainable share of backbones and adapters, %",
            ylabel=f"test {metric}",
            xlim=(-0.02, 30 * top),
            xticks=[0, *(t for t in (0.1, 1, 10, 100) if t <= 10 * top)],
        )
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_locator(plt.NullLocator())
        axis.margins(y=0.12)
        low, high = axis.get_ylim()
        gap = (high - low) * LINE / (72 * (height - 0.7))
        for group in _together(percent):
            places = apart([means[name] for name in group], gap)
            for name, y in zip(group, places, strict=True):
                axis.annotate(
                    name,
                    (percent[name], means[name]),
                    xytext=(max(percent[n] for n in group) * 1.35 + 0.02, y),
                    va="center",
                    size=8,
                    arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.5, "shrinkA": 1, "shrinkB": 4},
                )
        return svg(figure)


def learning_curves(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], metric: str) -> str:
    """A small figure per method: each seed's validation values over steps, all methods' means behind."""
    rows = math.ceil(len(curves) / COLUMNS)
    behind = [_mean_curve(seeds) for seeds in curves.values()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            min(COLUMNS, len(curves)),
            figsize=(8.4, 0.3 + 1.7 * rows),
            layout="constrained",
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        panels = list(axes.flat)
        for i, (axis, (name, seeds)) in enumerate(zip(panels, curves.items(), strict=False)):
            for steps, means in behind:
                axis.plot(steps, means, color="#d3dae0", lw=0.8)
            for curve in seeds:
                axis.plot(
                    *zip(*curve, strict=True), ".-", color=ORANGE if i == 0 else BLUE, lw=1, ms=3, alpha=0.8
                )
            axis.set_title(name, size=9)
        for axis in panels[len(curves) :]:
            axis.set_axis_off()
        figure.supxlabel("step", size=9)
        figure.supylabel(f"validation {metric}", size=9)
        return svg(figure)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels, each as near to its value as can be with `gap` between neighbours.

    Least squares, by pooling neighbours that are in each other's way.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    pools: list[list[float]] = []  # [mean of value - rank * gap, how many]
    for rank, i in enumerate(order):
        pools.append([values[i] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            before = pools[-1]
            pools[-1] = [(before[0] * before[1] + mean * count) / (before[1] + count), before[1] + count]
    flat = [mean for mean, count in pools for _ in range(int(count))]
    places = [0.0] * len(values)
    for rank, i in enumerate(order):
        places[i] = flat[rank] + rank * gap
    return places


def _together(percent: Mapping[str, float]) -> list[list[str]]:
    """Methods whose shares are too near each other for labels side by side."""
    groups: list[list[str]] = []
    for name in sorted(percent, key=lambda n: percent[n]):
        if groups and percent[name] <= 2 * percent[groups[-1][-1]] + 0.03:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _mean_curve(seeds: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    by_step: dict[int, list[float]] = {}
    for curve in seeds:
        for step, value in curve:
            by_step.setdefault(step, []).append(value)
    return sorted(by_step), [statistics.mean(by_step[step]) for step in sorted(by_step)]
