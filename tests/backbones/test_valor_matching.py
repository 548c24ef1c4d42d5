"""VALOR's own head of retrieval against loops over the official state dict, and a run with it."""

import sys
from pathlib import Path

import pytest
import torch
from systems import words_folder
from torch.nn import functional as F
from valor_reference import Reference, official_state, small_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks"))
from text_visual import msrvtt

from hmmoe.backbones.valor import ValorModel, matching
from hmmoe.backbones.valor.matching import MatchingHead
from hmmoe.engine.assemble import assemble
from hmmoe.engine.evaluate import evaluate
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train

ROLES = {"text": "text", "video": "video", "audio": "audio"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "video0", "plays", "sings", "only"]


@pytest.fixture(params=["clip", "swin"])
def case(request):
    """Head and reference; states of four rows: padded texts, the third without sound, the fourth bare."""
    config = small_config(request.param)
    state = official_state(config)
    valor = ValorModel.from_official(state, config).double()
    g = torch.Generator().manual_seed(2)
    widths = {
        "text": config.text_config.hidden_size,
        "video": config.vision_config.hidden_size,
        "audio": config.audio_config.hidden_size,
    }
    sizes = {"text": (4, 5), "video": (4, 3, 6), "audio": (4, 2, 4)}
    states = {m: torch.randn(*size, widths[m], generator=g, dtype=torch.float64) for m, size in sizes.items()}
    there = {"video": torch.tensor([1, 1, 1, 0]), "audio": torch.tensor([1, 1, 0, 0])}
    masks = {m: x.bool()[:, None, None].expand(sizes[m]) for m, x in there.items()}
    masks["text"] = torch.arange(5) < torch.tensor([5, 3, 4, 2])[:, None]
    return MatchingHead(valor.align, ROLES), Reference(state, config), states, masks


def by_hand(reference, states, masks, group):
    """Rows by rows, 0 where a row has nothing of the group."""
    texts, media = [], []
    for i in range(4):
        texts.append(reference.contrast(states["text"][i][masks["text"][i]], "text"))
        parts = []
        for m in group:
            if masks[m][i].any():
                x = states[m][i]
                first = m == "audio" or reference.config.clip_frames
                parts.append(reference.contrast(x[:, 0] if first else x.mean(1), m))
        media.append(tuple(map(torch.cat, zip(*parts, strict=True))) if parts else None)
    table = [[reference.similarity(t, m) if m else 0.0 for m in media] for t in texts]
    return torch.tensor(table, dtype=torch.float64)


def test_similarity_equals_loops_in_chunks_and_padded(case, monkeypatch):
    head, reference, states, masks = case
    monkeypatch.setattr(matching, "CHUNK", 100)
    logits = head(states, masks)
    table = by_hand(reference, states, masks, ("video", "audio"))
    media = F.pad(logits["media"], (0, 0, 0, 2), value=-100)  # as Trainer pads a split's batches
    torch.testing.assert_close(head.similarity(logits["text"], media), table, rtol=0, atol=1e-6)


def test_loss_equals_loops_without_twins_and_rows_that_lack_a_side(case):
    head, reference, states, masks = case
    labels = torch.tensor([[7, 7], [7, 7], [9, 9], [4, -1]])  # the first two are about one item
    losses = []
    for group, rows in ((("video",), 3), (("audio",), 2), (("video", "audio"), 3)):
        table = by_hand(reference, states, masks, group)[:rows, :rows] / reference.temperature()
        table[0, 1] = table[1, 0] = -torch.inf
        both = [-x.log_softmax(1).diagonal().mean() for x in (table, table.T)]
        losses.append(sum(both) / 2)
    loss = head.loss(head(states, masks), labels)
    torch.testing.assert_close(loss.item(), sum(losses).item() / 3, rtol=0, atol=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_batch_without_media_has_no_loss_and_matches_nothing(case):
    head, _, states, masks = case
    logits = head({"text": states["text"]}, masks)
    assert head.loss(logits, torch.tensor([[i, -1] for i in range(4)])) == 0
    assert not head.similarity(logits["text"], logits["media"]).any()


def test_without_sound_there_are_no_weights_for_it():
    head = MatchingHead(ValorModel(small_config()).align, {"a": "text", "b": "video"})
    names = {name.partition(".")[0] for name, _ in head.align.named_parameters()}
    assert names == {
        "contra_head_t",
        "contra_head_v",
        "text_fine_weight",
        "video_fine_weight",
        "logit_scale",
    }
    picture = head({"a": torch.randn(2, 4, 24), "b": torch.randn(2, 17, 32)}, {})
    assert picture["media"].shape == (2, 1, 14)


def test_the_checkpoints_weights_are_trained_saved_and_read_back(tmp_path, tmp_path_factory):
    valor = ValorModel(small_config())
    valor.save_pretrained(tmp_path / "valor")
    tree = {
        "task": {"name": "msrvtt_retrieval", "root": str(msrvtt(tmp_path)), "frames": 2, "head": "own"},
        "model": {
            "name": "valor",
            "path": str(tmp_path / "valor"),
            "tokenizer": words_folder(tmp_path_factory, WORDS),
        },
        "method": {"name": "lora", "rank": 2},
        "train": {"max_steps": 2, "batch_size": 3, "evaluations": 1, "learning_rate": 1e-2},
    }
    recipe = Recipe.from_dict(tree)
    before = _head(assemble(recipe).model)
    assert all(torch.equal(x, valor.align.state_dict()[name]) for name, x in before.items())
    done = train(recipe, tmp_path / "run")
    again = evaluate(tmp_path / "run")
    assert again.metrics["t2v_r1"] == done["test"]["t2v_r1"]
    after = _head(assemble(recipe, saved=tmp_path / "run").model)
    assert not any(torch.equal(x, after[name]) for name, x in before.items() if name.endswith("0.weight"))
    shown = again.task.show(again.rows.dataset[0], {m: x[0] for m, x in again.logits.items()})
    assert shown["prediction"].startswith("similarity ")


def _head(model):
    """The weights of the head that is in use."""
    (head,) = [
        m
        for name, m in model.named_modules()
        if isinstance(m, MatchingHead) and "original_module" not in name
    ]
    return {name: x.detach().clone() for name, x in head.align.state_dict().items()}


def test_head_own_without_such_a_model_is_refused():
    from hmmoe.tasks.flickr8k_pairs import Flickr8kPairs

    with pytest.raises(ValueError, match="head: own of retrieval needs a model that compares text and media"):
        Flickr8kPairs(head="own").head({"image": 4, "text": 4})
