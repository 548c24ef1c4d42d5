"""One process of `test_dist`: train with transformers' Trainer, save the adapter, let the first write losses.

Alone (`alone`), or one of two that DDP (`ddp`) or FSDP2 (`fsdp2`) runs.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

from small import adapted, arguments, collate, losses, rows

SHARDED = ["HMMoEBlock", "CLIPEncoderLayer", "BertLayer"]


def train(mode: str, folder: Path, batch: int) -> tuple[list[float], str]:
    """Losses, and the class of the model as it was trained; the adapter is in `folder / "adapter"`."""
    # SGD, since Adam makes steps of gradients' signs: where one is zero but for rounding, processes differ.
    options = {"max_steps": 3, "per_device_train_batch_size": batch, "learning_rate": 0.1, "optim": "sgd"}
    if mode == "fsdp2":
        options |= {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": SHARDED}}
    given = arguments(folder, **options)
    if mode == "fsdp2":
        # accelerate 1.15 sets FSDP up for accelerators only: the list in AcceleratorState.__init__ lacks
        # MULTI_CPU, which gets DDP, unsaid. Its code runs on gloo as it is, once it takes us for one of them.
        assert given.device.type == "cpu"
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    # The balance loss of a batch is not the mean of those of its parts, so it cannot be equal.
    run = Trainer(adapted(balance_coef=0.0), given, data_collator=collate, train_dataset=rows(12))
    run.train()
    run.save_model(str(folder / "adapter"))
    return losses(run), type(run.model_wrapped).__name__


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[2])
    values, kind = train(sys.argv[1], where, int(sys.argv[3]))
    if int(os.environ["RANK"]) == 0:
        (where / "losses.json").write_text(json.dumps(values))
        (where / "kind.txt").write_text(kind)
    dist.barrier()
    dist.destroy_process_group()
