"""Cost of HMMoE on the text-visual systems at full size, random weights, float32, one thread.

    python -m benchmarks.systems [--json] [--rounds 3] [--budget 0.06]

`step` rows: forward, loss and backward with HMMoE in the largest size within the budget, every case in a
process of its own, batch 1. `vlmo-base` reads 40 words with an image of 224 pixels, `vlmo-base-nlvr2` with
two; `valor-large` aligns and captions 2 frames and a clip of sound. `peak_mib` is the whole process,
`above_start_mib` what it grew by after the model was built; `cpu_s` is CPU time.

`generate` rows: VALOR-L writes 6 words with beam 3 about 2 frames and a clip, all ways in one process and
turn by turn; `ratio` is against the way it is done.

    kept       the media's low-rank states of every fusion point, once per caption: `ValorModel.generate`
    states     the media's full states of every fusion point; their low-rank states at every step
    nothing    the media through their encoders at every step
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS, ANSWERS, STEPS, BEAMS = 40, 3129, 6, 3
SPECIAL: dict[str, Any] = {"start_id": 101, "end_id": 102}
MASK_ID = 103


def vlmo(images: int, budget: float) -> tuple[nn.Module, dict[str, Any]]:
    """VLMo-base under a linear head, and a batch of one."""
    from hmmoe.backbones.vlmo import VlmoConfig, VlmoModel
    from hmmoe.backbones.vlmo.system import VlmoStreams

    names = ["image"] if images == 1 else ["left", "right"]
    encoder = VlmoModel(VlmoConfig.preset("base", num_token_types=1 + images))
    model = adapted(VlmoStreams(encoder, Head(768 * images), "text", names), budget, modules_to_save=["head"])
    batch: dict[str, Any] = {m: {"pixel_values": torch.randn(1, 3, 224, 224)} for m in names}
    words = {"input_ids": words_of(1, WORDS), "attention_mask": torch.ones(1, WORDS, dtype=torch.long)}
    return model, {**batch, "text": words, "labels": torch.tensor([3])}


class Head(nn.Module):
    """Answers from VLMo's own summary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.answer = nn.Linear(width, ANSWERS)

    def forward(self, states: dict[str, Tensor], masks: dict[str, Tensor | None]) -> Tensor:
        return self.answer(states["pooled"][:, 0])

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


def valor(budget: float) -> nn.Module:
    """VALOR-L with HMMoE on its three streams."""
    from hmmoe.backbones.presets import PRESETS

    preset = PRESETS["valor-large"]
    return adapted(preset.build(), budget, **preset.options)


def adapted(model: nn.Module, budget: float, **options: Any) -> nn.Module:
    from hmmoe import HMMoEConfig, get_peft_model

    return get_peft_model(model.requires_grad_(False), HMMoEConfig(budget=budget, **options))


def media() -> dict[str, Tensor]:
    """Two frames and a clip of one sample."""
    return {"pixel_values": torch.randn(1, 2, 3, 224, 224), "audio_values": torch.randn(1, 1, 64, 512)}


def words_of(rows: int, length: int) -> Tensor:
    return torch.randint(1000, 30000, (rows, length))


def step_case(case: str, budget: float) -> tuple[nn.Module, dict[str, Any]]:
    if case == "valor-large":
        text = words_of(1, 30)
        batch = {"input_ids": text, "decoder_input_ids": text, "labels": text, "groups": ["tva"]}
        return valor(budget), {**media(), **batch}
    return vlmo(2 if case.endswith("nlvr2") else 1, budget)


def step(case: str, budget: float, rounds: int, pipe: Connection) -> None:
    """In a process of its own: build, take steps, send the row."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batch = step_case(case, budget)
    model.train()
    start, seconds = peak_mib(), []
    for _ in range(rounds):
        began = time.process_time()
        model(**batch).loss.backward()
        seconds.append(time.process_time() - began)
    counts: dict[str, int] = model.base_model.parameter_counts()  # type: ignore[operator, union-attr]
    added = counts["adapter"] + counts["router"]
    pipe.send(
        {
            "case": case,
            "backbone": counts["backbone"],
            "trained": added,
            "share": added / (counts["backbone"] + added),
            "cpu_s": statistics.median(seconds),
            "peak_mib": peak_mib(),
            "above_start_mib": peak_mib() - start,
        }
    )


def generation(budget: float, rounds: int, pipe: Connection) -> None:
    """In a process of its own: the three ways in turn."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = valor(budget).eval()
    for name, p in model.named_parameters():
        if ".up." in name:
            nn.init.normal_(p, std=1e-3)
    inputs = media()
    ways: dict[str, Callable[[], Tensor]] = {
        "kept": lambda: write(model, inputs, None),
        "states": lambda: write(model, inputs, "states"),
        "nothing": lambda: write(model, inputs, "nothing"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        found = {}
        for _ in range(rounds):
            for way, run in ways.items():
                began = time.process_time()
                found[way] = run()
                seconds[way].append(time.process_time() - began)
    if not all(torch.equal(ids, found["kept"]) for ids in found.values()):
        raise AssertionError("the ways write different texts")
    pipe.send(
        [
            {
                "case": f"generate-{way}",
                "cpu_s": statistics.median(taken),
                "ratio": statistics.median(a / b for a, b in zip(taken, seconds["kept"], strict=True)),
            }
            for way, taken in seconds.items()
        ]
    )


def write(model: Any, inputs: dict[str, Tensor], again: str | None) -> Tensor:
    """A caption; `again` says what is computed anew at every step."""
    from hmmoe.backbones.valor.generation import generate
    from hmmoe.layer import HMMoELayer, Read
    from hmmoe.streams.recall import Recall

    own = model.base_model.model
    if again is None:
        return own.generate(**inputs, **SPECIAL, mask_id=MASK_ID, num_beams=BEAMS, max_tokens=STEPS)
    seen: dict[nn.Module, dict[str, Tensor]] = {}
    layers = [m for m in own.modules() if isinstance(m, HMMoELayer)]
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.setdefault(m, args[0])) for m in layers]
    known = Recall()
    states = own.encode(**inputs, keep=known)
    for hook in hooks:
        hook.remove()
    kept = dict(zip(sorted(known.reads), layers, strict=True))

    def next_word(rows: Tensor, ids: Tensor) -> Tensor:
        nonlocal states, known
        if again == "nothing":
            known = Recall()
            states = own.encode(**inputs, keep=known)
        else:
            known = Recall()
            for place, layer in kept.items():
                low = {m: layer.down[m](x) for m, x in seen[layer].items()}
                known.reads[place] = {m: Read(z, z.mean(1), None) for m, z in low.items()}
        memory, mask = own.media_memory(states["video"], states["audio"])
        read = {"memory": memory[rows], "memory_mask": mask[rows], "known": known.rows(rows)}
        text = own.run_text(F.pad(ids, (0, 1), value=MASK_ID), causal=True, **read)
        return own.cls(text[:, -1])

    return generate(next_word, 1, **SPECIAL, pad_id=0, num_beams=BEAMS, max_tokens=STEPS)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(work: Callable[..., None], *args: Any) -> Any:
    """What `work` sends from a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(*args, theirs), daemon=True)
    process.start()
    theirs.close()
    found = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each case (default 3)")
    parser.add_argument("--budget", type=float, default=0.06, help="share of the adapters (default 0.06)")
    args = parser.parse_args()
    cases = ("vlmo-base", "vlmo-base-nlvr2", "valor-large")
    rows = [alone(step, case, args.budget, args.rounds) for case in cases]
    rows += alone(generation, args.budget, args.rounds)
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print("   ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
