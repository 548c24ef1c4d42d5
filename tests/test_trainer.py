"""HMMoE under transformers' Trainer."""

import shutil

import pytest
import torch
from transformers import Trainer

from hmmoe.streams import PrefixCache
from hmmoe.tuner import RoutingCallback
from small import adapted, arguments, collate, losses, rows


def trainer(model, folder, **options) -> Trainer:
    return Trainer(
        model,
        arguments(folder, **options),
        data_collator=collate,
        train_dataset=rows(12),
        eval_dataset=rows(6),
        callbacks=[RoutingCallback()],
    )


def trained(run: Trainer) -> list[float]:
    run.train()
    return losses(run)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> list[float]:
    return trained(trainer(adapted(), tmp_path_factory.mktemp("plain")))


def test_auxiliary_losses_reach_the_loss_and_the_log(tmp_path):
    without = trained(trainer(adapted(balance_coef=0.0, z_coef=0.0), tmp_path, max_steps=1))[0]
    run = trainer(adapted(balance_coef=10.0, z_coef=1.0), tmp_path, max_steps=1)
    loss = trained(run)[0]
    entry = next(e for e in run.state.log_history if "loss" in e)
    assert entry["aux_loss"] == pytest.approx(10 * entry["balance"] + entry["z"])
    assert loss == pytest.approx(without + entry["aux_loss"], rel=1e-4)
    use = [v for k, v in entry.items() if k.startswith("experts/image/")]
    assert sum(use) == pytest.approx(1, rel=1e-4)


def test_evaluation_gives_the_task_loss_and_gathers_logits_only(tmp_path):
    run = trainer(adapted(balance_coef=10.0), tmp_path)
    predictions = run.predict(run.eval_dataset)
    assert predictions.predictions.shape == (6, 3)
    with torch.no_grad():
        expected = run.model(**collate(rows(6))).loss.item()
    assert run.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_accumulation_equals_one_larger_batch(tmp_path):
    def measured():  # layers standardise their input on the first batch they train on
        model = adapted(balance_coef=0.0)  # not the mean of its parts' balance losses
        model.train()(**collate(rows(4)))
        return model

    whole = trained(trainer(measured(), tmp_path))
    halves = trained(
        trainer(measured(), tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    )
    assert halves == pytest.approx(whole, rel=1e-5)


def test_activation_checkpointing_changes_nothing(tmp_path, plain):
    assert trained(trainer(adapted(), tmp_path, activation_checkpointing=True)) == pytest.approx(
        plain, rel=1e-6
    )


def test_a_remembered_prefix_changes_nothing(tmp_path, plain):
    model = adapted()
    with PrefixCache(model) as cache:
        assert trained(trainer(model, tmp_path)) == pytest.approx(plain, rel=1e-5)
    assert cache.nbytes > 0


def test_bfloat16_autocast_trains(tmp_path, plain):
    assert trained(trainer(adapted(), tmp_path, bf16=True)) == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
            ],
        ),
    ],
)
def test_compiled_blocks_change_nothing(tmp_path, plain, backend):
    model = adapted()
    model.get_base_model().compile_blocks(backend=backend)
    assert trained(trainer(model, tmp_path)) == pytest.approx(plain, rel=1e-5)


def test_a_resumed_run_has_bit_equal_losses(tmp_path):
    whole = trained(trainer(adapted(modality_dropout=0.2), tmp_path / "whole"))
    trainer(adapted(modality_dropout=0.2), tmp_path / "cut", save_strategy="steps", save_steps=2).train()
    again = trainer(adapted(modality_dropout=0.2), tmp_path / "cut")
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert losses(again) == whole
