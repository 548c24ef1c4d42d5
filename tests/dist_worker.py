"""One process of `test_dist`: train, save the adapter, and let the first process write the losses.

`trainer` is transformers' Trainer (DDP where there are two processes); `loop` is a plain loop, sharded by
FSDP2 where there are two, since accelerate leaves FSDP out on the CPU.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import Trainer, TrainingArguments

from small import adapted, collate, rows


def train(mode: str, folder: Path, batch: int) -> tuple[list[float], str]:
    """Losses, and the class of the model as it was trained; the adapter is in `folder / "adapter"`."""
    # The balance loss of a batch is not the mean of those of its parts, so it cannot be equal.
    model = adapted(balance_coef=0.0)
    return (_trainer if mode == "trainer" else _loop)(model, folder, batch)


def _trainer(model: nn.Module, folder: Path, batch: int) -> tuple[list[float], str]:
    options = {
        "max_steps": 3,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        "seed": 7,
    }
    run = Trainer(
        model, TrainingArguments(str(folder), **options), data_collator=collate, train_dataset=rows(12)
    )
    run.train()
    run.save_model(str(folder / "adapter"))
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    return losses, type(run.model_wrapped).__name__


def _loop(model: nn.Module, folder: Path, batch: int) -> tuple[list[float], str]:
    rank = int(os.environ.get("RANK", 0))
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
        for module in reversed(list(model.modules())):  # the inner ones first
            if type(module).__name__ in ("HMMoEBlock", "CLIPEncoderLayer"):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(3):
        start = 4 * step + batch * rank
        loss = model(**collate(rows(12)[start : start + batch])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        losses.append(mean.item())
    state = None
    if dist.is_initialized():
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)
    if rank == 0:
        model.save_pretrained(folder / "adapter", state_dict=state)
    return losses, type(model).__name__


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[2])
    losses, kind = train(sys.argv[1], where, int(sys.argv[3]))
    if int(os.environ["RANK"]) == 0:
        (where / "losses.json").write_text(json.dumps(losses))
        (where / "kind.txt").write_text(kind)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
