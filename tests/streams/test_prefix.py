import pytest
import torch
from peft import LoraConfig
from peft import get_peft_model as peft_model

from hmmoe import HMMoEConfig, get_peft_model
from hmmoe.streams import PrefixCache
from small import adapted, collate, pair, rows, wake


def calls(model) -> dict[str, int]:
    """Counts the forwards of every block of the image tower, from now on."""
    base = model if not hasattr(model, "get_base_model") else model.get_base_model()
    counts = {}
    for i, block in enumerate(base.towers["image"].encoder.layers):
        inner = getattr(block, "base_layer", block)
        attention = inner.self_attn
        counts[i] = 0

        def count(*_, i=i):
            counts[i] += 1

        attention.register_forward_hook(count)
    return counts


def lora():
    return peft_model(
        pair(),
        LoraConfig(target_modules=r"towers\.image\.encoder\.layers\.2\..*q_proj", modules_to_save=["head"]),
    )


@pytest.mark.parametrize(
    ("build", "skipped"),
    [
        (pair, 4),  # nothing trainable in the tower
        (lora, 2),
        (lambda: wake(adapted(points=1)), 4),
        (lambda: wake(adapted()), 2),
        (lambda: wake(adapted(points=[{"image": 0, "text": 0}])), 1),
    ],
)
def test_known_rows_skip_the_frozen_prefix_and_change_nothing(build, skipped):
    model = build().eval()
    batch = collate(rows(4))
    expected = model(**batch).logits
    mixed = collate([rows(4)[i] for i in (2, 0)])
    with PrefixCache(model):
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
        counts = calls(model)
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
        assert [n for n in counts.values()] == [0] * skipped + [1] * (4 - skipped)
        torch.testing.assert_close(model(**mixed).logits, expected[[2, 0]])
        unknown = collate(rows(6)[3:])
        model(**unknown)
        assert [n for n in counts.values()] == [1] * skipped + [3] * (4 - skipped)
    model(**batch)
    assert counts[0] == 2


def test_gradients_are_the_same_with_and_without():
    model = wake(adapted()).train()
    batch = collate(rows(4))
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(model(**batch).loss, trained)
    with PrefixCache(model):
        for _ in range(2):
            torch.testing.assert_close(torch.autograd.grad(model(**batch).loss, trained), expected)


def test_folded_streams_are_remembered_per_sample():
    from hmmoe import MultimodalModel
    from small import LinearHead

    base = pair()
    model = MultimodalModel(
        dict(base.towers.items()), LinearHead({"image": 16, "text": 24}), folded=["image"]
    )
    model = wake(get_peft_model(model, HMMoEConfig(rank=2))).eval()
    batch = collate(rows(4))
    batch["image"] = {"pixel_values": torch.randn(4, 3, 3, 16, 16)}
    expected = model(**batch).logits
    with PrefixCache(model):
        for _ in range(2):
            torch.testing.assert_close(model(**batch).logits, expected)


def test_what_was_saved_is_known_after_loading(tmp_path):
    model = wake(adapted(points=1)).eval()
    batch = collate(rows(4))
    expected = model(**batch).logits
    with PrefixCache(model) as cache:
        model(**batch)
        for stream in ("image", "text"):
            cache.save(stream, tmp_path / f"{stream}.safetensors")
    counts = calls(model)
    with PrefixCache(model) as cache:
        cache.load("image", tmp_path / "image.safetensors")
        assert not cache.knows(batch["index"])
        cache.load("text", tmp_path / "text.safetensors")
        assert cache.knows(batch["index"])
        assert not cache.knows(torch.tensor([99]))
        for run in (1, 1, 1):  # the first batch shows the form of the outputs
            torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
            assert counts[0] == run
    assert cache.blocks["image"] == [f"encoder.layers.{i}" for i in range(4)]


def test_of_a_tower_that_answers_whole_only_the_states_are_remembered():
    model = pair().eval()
    model.towers["image"].config.output_hidden_states = True
    batch = collate(rows(4))
    expected = model(**batch).logits
    with PrefixCache(model) as cache:
        for _ in range(2):
            torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
    states = model(**batch, output_states=True).states["image"]
    assert cache.nbytes_of("image") == states.nbytes


def test_without_index_nothing_is_remembered():
    model = pair().eval()
    batch = {k: v for k, v in collate(rows(2)).items() if k != "index"}
    with PrefixCache(model) as cache:
        model(**batch)
    assert cache.nbytes == 0


def test_rows_of_another_length_are_an_error():
    model = pair()
    one, two = collate(rows(1)), collate([rows(2)[1]])
    two["text"] = {k: v[:, :4] for k, v in two["text"].items()}
    with PrefixCache(model):
        model(**one)
        with pytest.raises(ValueError, match=r"tower 'text'.*pad its inputs to a fixed length"):
            model(**two)


def test_adapters_added_after_it_are_an_error():
    model = pair()
    batch = collate(rows(2))
    with PrefixCache(model):
        model(**batch)
        adapted_model = get_peft_model(model, HMMoEConfig(rank=2))
        with pytest.raises(RuntimeError, match="attach the PrefixCache after them"):
            adapted_model(**batch)


def test_only_a_container_has_prefixes_to_remember():
    with pytest.raises(ValueError, match="MultimodalModel"):
        PrefixCache(torch.nn.Linear(1, 1))


def test_a_memory_cut_short_is_refused(tmp_path):
    (tmp_path / "known.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"known.safetensors is cut short"):
        PrefixCache(pair()).load("image", tmp_path / "known.safetensors")
