"""One process of `test_dist`: train, save the adapter, and let the first process write the losses."""

import json
import sys
from pathlib import Path

import torch
from small import adapted, collate, rows
from transformers import Trainer, TrainingArguments

mode, folder, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
sharding: dict = {}
if mode == "fsdp":
    wrapped = ["CLIPEncoderLayer", "BertLayer"]
    sharding = {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": wrapped,
            "state_dict_type": "FULL_STATE_DICT",
        },
    }
# The balance loss of a batch is not the mean of those of its parts, so it cannot be equal.
run = Trainer(
    adapted(balance_coef=0.0),
    TrainingArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=batch,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
        seed=7,
        **sharding,
    ),
    data_collator=collate,
    train_dataset=rows(12),
)
run.train()
run.save_model(str(folder / "adapter"))
if run.is_world_process_zero():
    found = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    (folder / "losses.json").write_text(json.dumps(found))
    (folder / "kind.txt").write_text(type(run.model_wrapped).__name__)
