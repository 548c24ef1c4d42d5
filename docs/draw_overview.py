"""Draws docs/overview.svg (and .png beside it with --png): python docs/draw_overview.py"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, FROZEN, EDGE, TRAINED, GATE = "#1f2933", "#e8edf3", "#9fb1c5", "#ffd8a8", "#f08c00"
STREAM = {"image": "#4c6ef5", "text": "#12b886"}
KINDS = ("affine", "conditioned\naffine", "channel\nattention", "cross-\nattention")


def box(ax, x, y, w, h, text="", color=FROZEN, edge=EDGE, size=9, **font):
    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=color,
            edgecolor=edge,
            linewidth=1.1,
        )
    )
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size, color=INK, **font)


def arrow(ax, start, end, color=INK, **style):
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=color, lw=1.2, shrinkA=0, shrinkB=0, **style
        )
    )


def towers(ax):
    """Two frozen towers of different depth that meet at three fusion points."""
    columns = {"image": 0.55, "text": 3.55}
    blocks = {"image": 6, "text": 3}
    bottom, top = 1.05, 6.4
    for m, x in columns.items():
        step = (top - bottom) / blocks[m]
        box(ax, x, 0.25, 1.3, 0.45, f"{m} in", "white", STREAM[m], 9)
        arrow(ax, (x + 0.65, 0.7), (x + 0.65, bottom), STREAM[m])
        for i in range(blocks[m]):
            y = bottom + i * step
            box(ax, x, y, 1.3, step - 0.28, f"block {i + 1}", size=8)
            end = y + step if i + 1 < blocks[m] else 6.75
            arrow(ax, (x + 0.65, y + step - 0.28), (x + 0.65, end), STREAM[m])
    for i in range(3):
        y = bottom + (i + 1) * (top - bottom) / 3 - 0.16
        box(ax, 2.12, y - 0.2, 1.16, 0.4, "HMMoE", TRAINED, GATE, 9, weight="bold")
        arrow(ax, (1.22, y), (2.12, y), STREAM["image"])
        arrow(ax, (4.18, y), (3.28, y), STREAM["text"])
        arrow(
            ax,
            (2.25, y + 0.2),
            (1.24, y + 0.16),
            STREAM["image"],
            connectionstyle="arc3,rad=0.35",
            linestyle="--",
        )
        arrow(
            ax,
            (3.15, y + 0.2),
            (4.16, y + 0.16),
            STREAM["text"],
            connectionstyle="arc3,rad=-0.35",
            linestyle="--",
        )
    box(ax, 0.55, 6.75, 4.3, 0.45, "task head", TRAINED, GATE, 9)
    ax.text(2.7, 7.5, "frozen towers in lockstep", ha="center", fontsize=11, color=INK, weight="bold")


def layer(ax, x0=6.2):
    """Inside a fusion point, for one stream."""
    ax.text(
        x0 + 3.05,
        7.5,
        "one HMMoE layer, seen from the image stream",
        ha="center",
        fontsize=11,
        color=INK,
        weight="bold",
    )
    box(ax, x0 + 0.1, 0.25, 2.5, 0.45, "image tokens  N × d", "white", STREAM["image"], 9)
    box(ax, x0 + 3.5, 0.25, 2.5, 0.45, "text tokens  N′ × d′", "white", STREAM["text"], 9)
    box(ax, x0 + 0.1, 1.2, 2.5, 0.5, "down  d → E·r", TRAINED, GATE)
    box(ax, x0 + 3.5, 1.2, 2.5, 0.5, "down  d′ → E·r", TRAINED, GATE)
    for x, m in ((1.35, "image"), (4.75, "text")):
        arrow(ax, (x0 + x, 0.7), (x0 + x, 1.2), STREAM[m])
    frame = {"facecolor": "#fff9ef", "edgecolor": GATE, "linewidth": 0.8, "linestyle": ":"}
    style = "round,pad=0,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch((x0 - 0.1, 2.15), 6.3, 2.95, boxstyle=style, **frame))
    ax.text(
        x0 + 6.08, 2.24, "everything in rank space", ha="right", fontsize=7.5, color="#8a6d3b", style="italic"
    )
    for i, kind in enumerate(KINDS):
        x = x0 + 0.12 + i * 1.12
        box(ax, x, 2.85, 1.0, 0.85, kind, TRAINED, GATE, 7.6)
        arrow(ax, (x0 + 1.35, 1.7), (x + 0.42, 2.85), STREAM["image"])
        if i:
            arrow(ax, (x0 + 4.75, 1.7), (x + 0.62, 2.85), STREAM["text"])
        arrow(ax, (x + 0.5, 3.7), (x + 0.5, 4.42), INK)
        ax.text(x + 0.57, 4.2, f"· g{'₁₂₃₄'[i]}", fontsize=8, color="#a65f00")
    box(ax, x0 + 4.82, 2.85, 1.2, 0.85, "router\nsoftmax", TRAINED, GATE, 8, weight="bold")
    arrow(ax, (x0 + 4.95, 1.7), (x0 + 5.42, 2.85), STREAM["text"])
    arrow(ax, (x0 + 1.6, 1.7), (x0 + 5.2, 2.85), STREAM["image"])
    ax.plot([x0 + 5.42, x0 + 5.42, x0 + 0.95], [3.7, 3.95, 3.95], color=GATE, lw=1, ls=":")
    box(ax, x0 + 0.12, 4.42, 4.36, 0.42, "side by side, weighted", "white", EDGE, 8)
    arrow(ax, (x0 + 2.3, 4.84), (x0 + 2.3, 5.45))
    box(ax, x0 + 1.05, 5.45, 2.5, 0.5, "up  E·r → d,  0 at the start", TRAINED, GATE)
    arrow(ax, (x0 + 2.3, 5.95), (x0 + 2.3, 6.75))
    box(ax, x0 + 0.75, 6.75, 3.1, 0.45, "added to the image tokens", "white", STREAM["image"], 9)
    box(ax, x0 + 4.62, 6.25, 0.3, 0.24, "", TRAINED, GATE)
    ax.text(x0 + 5.02, 6.37, "trained", fontsize=8, va="center", color=INK)
    box(ax, x0 + 4.62, 5.85, 0.3, 0.24)
    ax.text(x0 + 5.02, 5.97, "frozen", fontsize=8, va="center", color=INK)


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "hmmoe"  # the same file every time
    fig, ax = plt.subplots(figsize=(12.4, 7.7))
    towers(ax)
    layer(ax)
    ax.set_xlim(0.2, 12.6)
    ax.set_ylim(0.1, 7.8)
    ax.axis("off")
    fig.tight_layout(pad=0.2)
    here = Path(__file__).parent
    fig.savefig(here / "overview.svg", metadata={"Date": None})
    if "--png" in sys.argv:
        fig.savefig(here / "overview.png", dpi=80)


if __name__ == "__main__":
    main()
