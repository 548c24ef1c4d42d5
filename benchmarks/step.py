"""Cost of a whole training step: HMMoE, LoRA at the same trainable share, and full fine-tuning.

    python -m benchmarks.step [--json] [--rounds 5] [--budget 0.06]

ViT-B/16 (197 tokens) and AST (1,214 tokens), 12 blocks of width 768 each, random weights, batch 2, float32,
one thread: forward, loss, backward and AdamW on a linear head and whatever the method trains. HMMoE meets at
all 12 blocks; LoRA, through PEFT, adapts every linear layer of all blocks with the largest rank within the
same share. Every method has a process of its own, which gives its peak memory; the processes take their steps
in turn. Times are medians of CPU time, ratios medians of the rounds' ratios against HMMoE. `peak_mib` is the
whole process, `above_start_mib` what it grew by after the towers were built.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

METHODS = ("hmmoe", "lora", "full")


class Head(nn.Module):
    """A linear layer on the mean tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * 768, 10)

    def forward(self, states: dict[str, Tensor], masks: dict[str, Tensor | None]) -> Tensor:
        return self.linear(torch.cat([x.mean(1) for x in states.values()], -1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)


def build(method: str, budget: float) -> nn.Module:
    """The adapted model."""
    import transformers as tf

    from hmmoe import HMMoEConfig, MultimodalModel, get_peft_model

    towers = {"image": tf.ViTModel(tf.ViTConfig()), "audio": tf.ASTModel(tf.ASTConfig())}
    model = MultimodalModel(towers, Head())
    if method == "full":
        return model.requires_grad_(True)
    if method == "hmmoe":
        return get_peft_model(model, HMMoEConfig(budget=budget, modules_to_save=["head"]))
    return lora(model, budget)


def lora(model: nn.Module, budget: float) -> nn.Module:
    """LoRA on every linear layer of all blocks."""
    import peft

    from hmmoe.budget import largest_within
    from hmmoe.streams import find_blocks

    targets: dict[str, int] = {}
    towers = model.get_submodule("towers")
    for name, tower in towers.named_children():
        for path in find_blocks(tower):
            for layer, module in tower.get_submodule(path).named_modules(prefix=f"towers.{name}.{path}"):
                if isinstance(module, nn.Linear):
                    targets[layer] = module.in_features + module.out_features
    backbone = sum(p.numel() for p in towers.parameters())
    rank = largest_within(budget, backbone, lambda r: r * sum(targets.values()), "rank")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), modules_to_save=["head"])
    return peft.get_peft_model(model, config)


def shares(model: nn.Module) -> dict[str, Any]:
    """What is trained, head apart, and the share of the adapters."""
    parts = {"trained": 0, "frozen": 0}
    for name, p in model.named_parameters():
        if "head" not in name:
            parts["trained" if p.requires_grad else "frozen"] += p.numel()
    return {"trained": parts["trained"], "share": parts["trained"] / sum(parts.values())}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(method: str, budget: float, pipe: Connection) -> None:
    """Build one method; take a step whenever asked and answer its CPU seconds; at the end what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(method, budget).train()
    start = peak_mib()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    batch = {
        "image": {"pixel_values": torch.randn(2, 3, 224, 224)},
        "audio": {"input_values": torch.randn(2, 1024, 128)},
        "labels": torch.tensor([0, 1]),
    }
    while pipe.recv():
        began = time.process_time()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipe.send(time.process_time() - began)
    pipe.send({**shares(model), "peak_mib": peak_mib(), "above_start_mib": peak_mib() - start})


def rows(rounds: int, budget: float) -> list[dict[str, Any]]:
    """One row per method."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for method in METHODS:
        pipes[method], theirs = context.Pipe()
        context.Process(target=worker, args=(method, budget, theirs), daemon=True).start()
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(rounds + 1):  # the first warms up
        for method, pipe in pipes.items():
            pipe.send(True)
            seconds = pipe.recv()
            if turn:
                times[method].append(1e3 * seconds)
    found = []
    for method, pipe in pipes.items():
        pipe.send(False)
        ratio = statistics.median(a / b for a, b in zip(times[method], times["hmmoe"], strict=True))
        cpu = statistics.median(times[method])
        found.append({"case": method, "cpu_ms": cpu, "ratio": ratio, **pipe.recv()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each method (default 5)")
    parser.add_argument("--budget", type=float, default=0.06, help="share of the adapters (default 0.06)")
    args = parser.parse_args()
    found = rows(args.rounds, args.budget)
    if args.json:
        print(json.dumps({"rows": found}))
        return
    for row in found:
        print(
            f"{row['case']:<6} share {row['share']:6.2%}   {row['cpu_ms']:8.0f} ms   ratio {row['ratio']:.2f}"
            f"   peak {row['peak_mib']:6.0f} MiB (+{row['above_start_mib']:.0f})"
        )


if __name__ == "__main__":
    main()
