"""A small pair of towers, a head and a data set for the tests of training."""

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hmmoe import HMMoEConfig, MultimodalModel, get_peft_model


class LinearHead(nn.Module):
    """Mean over real tokens of every stream, then one linear layer."""

    def __init__(self, widths: dict[str, int], classes: int = 3) -> None:
        super().__init__()
        self.names = sorted(widths)
        self.linear = nn.Linear(sum(widths.values()), classes)

    def forward(self, states: dict[str, Tensor], masks: dict[str, Tensor | None]) -> Tensor:
        means = []
        for m in self.names:
            x, mask = states[m].flatten(1, -2), masks[m]
            real = torch.ones_like(x[..., 0]) if mask is None else mask.flatten(1).to(x.dtype)
            means.append((x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1))
        return self.linear(torch.cat(means, -1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.float(), labels)


def pair(dropout: float = 0.0, text_layers: int = 2) -> MultimodalModel:
    """CLIP's vision tower (4 blocks, width 16) and a BERT (2, width 24), always with the same weights."""
    torch.manual_seed(0)
    image = tf.CLIPVisionModel(
        tf.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            attention_dropout=dropout,
        )
    )
    text = tf.BertModel(
        tf.BertConfig(
            vocab_size=50,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=text_layers,
            num_attention_heads=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )
    return MultimodalModel({"image": image, "text": text}, LinearHead({"image": 16, "text": 24}))


def adapted(**options) -> nn.Module:
    config = HMMoEConfig(**{"rank": 4, "modules_to_save": ["head"], **options})
    model = pair()
    torch.manual_seed(1)
    return get_peft_model(model, config)


def rows(count: int) -> list[dict]:
    """Rows of a data set: index, image, text (some padded) and label."""
    random = torch.Generator().manual_seed(3)
    made = []
    for index in range(count):
        length = 3 + index % 4
        ids = torch.randint(3, 50, (6,), generator=random)
        made.append(
            {
                "index": index,
                "image": torch.randn(3, 16, 16, generator=random),
                "input_ids": ids * (torch.arange(6) < length),
                "attention_mask": (torch.arange(6) < length).long(),
                "labels": index % 3,
            }
        )
    return made


def collate(batch: list[dict]) -> dict:
    return {
        "image": {"pixel_values": torch.stack([row["image"] for row in batch])},
        "text": {k: torch.stack([row[k] for row in batch]) for k in ("input_ids", "attention_mask")},
        "labels": torch.tensor([row["labels"] for row in batch]),
        "index": torch.tensor([row["index"] for row in batch]),
    }


def arguments(folder: Path, **options: Any) -> Any:
    """TrainingArguments for a few steps on the CPU, every one of them logged."""
    from transformers import TrainingArguments

    given = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        "seed": 7,
    }
    return TrainingArguments(str(folder), **given | options)


def losses(run: Any) -> list[float]:
    """Those that a Trainer's training logged."""
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def wake(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Give the adapters' up projections random values, so that fusion has an effect."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".up." in name and "hmmoe_layers" in name:
                p.add_(torch.randn_like(p) * scale)
    return model
