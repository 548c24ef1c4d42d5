"""transformers' Trainer, told how an adapter run validates, saves, resumes and stops.

What differs from the Trainer's own ways: only what learns is saved; a checkpoint counts once it is whole;
validations are spread evenly; head and adapter may have their own rates; a loss that is not finite stops.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hmmoe.engine.modality_dropout import ModalityDropout
from hmmoe.engine.recipe import Train
from hmmoe.engine.run import RunDir
from hmmoe.methods import is_head
from hmmoe.methods.inplace import learned
from hmmoe.weights import load_into

WEIGHTS = "model.safetensors"
TIMING = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")  # the Trainer's own
LOGGED = 200  # points of a loss curve
Report = Callable[[dict[str, Any]], None]


def save_learning(model: nn.Module, path: Path) -> None:
    save_file({name: t.detach().contiguous() for name, t in learned(model).items()}, str(path))


def load_learning(model: nn.Module, path: Path) -> None:
    """Inverse of `save_learning`, into a model built by the same recipe."""
    load_into(learned(model), path, "model")


class RunTrainer(Trainer):
    """Trainer of one run, for a model that takes the collator's mapping and returns a MultimodalOutput.

    Args:
        run: where checkpoints go.
        train: the recipe's training options.
        metric: the key of `metrics` to select the best checkpoint by; higher is better.
        metrics: (logits, labels) -> values, on the whole split at once.
        report: is told of every step: phase, step, steps, loss, metric, rows per second.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunDir,
        train: Train,
        *,
        steps: int,
        metric: str,
        metrics: Callable[[Any, Any], dict[str, float]],
        collator: Callable[[list], dict[str, Any]],
        rows: Any = None,
        validation: Any = None,
        report: Report | None = None,
    ) -> None:
        self.run, self.recipe, self.last_loss = run, train, math.nan
        self.learner = model
        self.drop = ModalityDropout(model, train.modality_dropout) if train.modality_dropout else None
        self.whole_batches = rows is not None and len(rows) >= train.batch_size
        self.began, self.spent = time.perf_counter(), 0.0
        super().__init__(
            model,
            _arguments(run, train, steps, metric),
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=validation,
            compute_metrics=lambda p: metrics(tensors(p.predictions), tensors(p.label_ids)),
        )
        self.model_accepts_loss_kwargs = False  # the container's **inputs are streams, not loss options
        self.pop_callback(PrinterCallback)
        self.pop_callback(ProgressCallback)
        self.add_callback(_Cadence(self, steps, report or (lambda _: None)))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: adapter and head, each with and without weight decay."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.learner.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((is_head(name), parameter.ndim > 1), []).append(parameter)
        train = self.recipe
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": (train.head_learning_rate or train.learning_rate) if head else train.learning_rate,
                    "weight_decay": train.weight_decay if decay else 0.0,
                }
                for (head, decay), parameters in groups.items()
            ],
            lr=train.learning_rate,
            fused=True,
        )
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """Whole batches of training rows; Trainer's own switch would leave rows out of evaluations too."""
        self.args.dataloader_drop_last = self.whole_batches
        try:
            return super().get_train_dataloader()
        finally:
            self.args.dataloader_drop_last = False

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        inputs = inputs if self.drop is None else self.drop(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.last_loss = float(loss)
        if not math.isfinite(self.last_loss):  # before the optimiser's step: the weights are still good
            self._stop(f"the loss became {self.last_loss} at step {self.state.global_step + 1}", inputs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the seconds spent so far, those before a resume included."""
        super().log({**logs, "seconds": round(self.spent + time.perf_counter() - self.began, 3)}, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        return super().prediction_step(
            model, inputs, prediction_loss_only, ignore_keys=["aux_loss", "states"]
        )

    def check_weights(self) -> None:
        """Before a checkpoint is called good: a finite loss may still have had infinite gradients."""
        for name, tensor in learned(self.learner).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                self._stop(f"the weights {name!r} became infinite by step {self.state.global_step}", None)

    @property
    def best_step(self) -> int:
        """The step of the best validation; the last one where no validation had a value that compares."""
        return self.state.best_global_step or self.state.global_step

    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """`train`: step, seconds, loss, learning_rate of every log; `validation`: step, seconds, metrics."""
        train, validation = [], []
        for entry in self.state.log_history:
            at = {"step": entry["step"], "seconds": entry["seconds"]}
            if "loss" in entry:
                train.append({**at, "loss": entry["loss"], "learning_rate": entry["learning_rate"]})
            elif "eval_loss" in entry:
                values = {k.removeprefix("eval_"): v for k, v in entry.items() if k.startswith("eval_")}
                validation.append({**at, "metrics": {k: v for k, v in values.items() if k not in TIMING}})
        return {"train": train, "validation": validation}

    def _stop(self, what: str, inputs: dict[str, Any] | None) -> None:
        look = getattr(getattr(self.learner, "base_model", None), "first_nonfinite", None)
        where = look(**self._prepare_inputs(inputs)) if look and inputs is not None else None
        kept = self.run.newest_checkpoint()
        raise FloatingPointError(
            what
            + (f", first in {where}" if where else "")
            + (f"; the last good checkpoint is {str(kept)!r}" if kept else "; there was no checkpoint yet")
            + "; a lower learning_rate is the usual mend"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.run.checkpoints)
        folder.mkdir(parents=True, exist_ok=True)
        save_learning(self.learner, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_learning(self.learner, Path(resume_from_checkpoint) / WEIGHTS)


class _Cadence(TrainerCallback):
    """Logs, validates and saves at evenly spread steps, marks checkpoints, and reports progress."""

    def __init__(self, trainer: RunTrainer, steps: int, report: Report) -> None:
        self.trainer, self.steps, self.report = trainer, steps, report
        count = min(trainer.recipe.evaluations, steps)
        self.milestones = {round(steps * (k + 1) / count) for k in range(count)}
        self.every = max(1, steps // LOGGED)
        self.metric: float | None = None
        self.looked = 0  # batches of the evaluation under way

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.began = time.perf_counter()
        self.trainer.spent = state.log_history[-1]["seconds"] if state.log_history else 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        milestone = state.global_step in self.milestones
        control.should_evaluate = control.should_save = milestone
        control.should_log = milestone or state.global_step % self.every == 0
        self.report(
            {
                "phase": "train",
                "step": state.global_step,
                "steps": self.steps,
                "rows": args.train_batch_size,
                "loss": self.trainer.last_loss,
                "metric": self.metric,
            }
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.metric = kwargs["metrics"].get(f"eval_{args.metric_for_best_model}", self.metric)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        self.looked += 1
        self.report(
            {
                "phase": "validate" if self.trainer.is_in_train else "test",
                "step": self.looked,
                "steps": len(eval_dataloader),
                "rows": args.eval_batch_size,
                "metric": self.metric,
            }
        )
        if self.looked == len(eval_dataloader):
            self.looked = 0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.check_weights()
        self.trainer.run.keep(state.global_step, state.best_global_step)


def _arguments(run: RunDir, train: Train, steps: int, metric: str) -> TrainingArguments:
    never = 10**9  # the cadence callback says when
    return TrainingArguments(
        output_dir=str(run.checkpoints),
        max_steps=steps,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(train.scheduler, train.scheduler),
        warmup_steps=round(train.warmup * steps),
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        data_seed=train.seed,
        bf16=train.precision == "bfloat16",
        dataloader_num_workers=train.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="steps",
        save_steps=never,
        metric_for_best_model=metric,
        greater_is_better=True,
        label_names=["labels"],
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )


def tensors(value: Any) -> Any:
    """Trainer's numpy arrays, nested or not, as tensors."""
    if isinstance(value, Mapping):
        return {k: tensors(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(tensors(v) for v in value)
    return torch.as_tensor(value)
