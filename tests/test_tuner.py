import copy
import json
import pickle
import subprocess
import sys

import peft
import pytest
import torch
import transformers as tf
from peft import PeftModel, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file, save_file
from torch import nn

import hmmoe
from hmmoe import HMMoEConfig, MultimodalModel
from hmmoe.fusion import HMMoEBlock
from hmmoe.registration import HMMOE, add_peft_type
from small import LinearHead, adapted, collate, pair, rows, wake

BATCH = collate(rows(3))


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_hmmoe_is_a_member_of_pefts_enum():
    assert PeftType("HMMOE") is PeftType.HMMOE is PeftType["HMMOE"] is HMMOE
    assert HMMOE == "HMMOE"
    assert HMMOE in list(PeftType)
    assert add_peft_type("HMMOE") is HMMOE
    assert pickle.loads(pickle.dumps(HMMOE)) is HMMOE
    assert copy.deepcopy(HMMOE) is HMMOE
    assert json.dumps(HMMOE) == '"HMMOE"'


def test_importing_hmmoe_imports_neither_torch_nor_peft():
    code = "import hmmoe, sys; assert not {'torch', 'peft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adapters_are_found_trainable_and_everything_else_frozen():
    model = adapted()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("hmmoe_layers" in n or "head.modules_to_save" in n for n in trained)
    assert all(n in trained for n, _ in model.named_parameters() if "hmmoe_layers" in n)
    assert sum(isinstance(m, HMMoEBlock) for m in model.modules()) == 4


def test_save_and_load_through_peft_and_through_us(tmp_path):
    model = wake(adapted())
    learned = answer(model)
    model.save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    card = (tmp_path / "README.md").read_text()
    assert "tags:\n- hmmoe" in card
    assert "streams image, text" in card
    assert model.parameter_report() in card
    same(answer(hmmoe.from_pretrained(pair(), tmp_path)), learned)
    same(answer(PeftModel.from_pretrained(pair(), tmp_path)), learned)
    again = hmmoe.from_pretrained(pair(), tmp_path, is_trainable=True)
    assert any(p.requires_grad for p in again.parameters())


def test_loading_needs_no_more_than_importing_us(tmp_path):
    wake(adapted()).save_pretrained(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hmmoe; from small import *; "
        "hmmoe.from_pretrained(pair(), sys.argv[2])(**collate(rows(2)))"
    )
    subprocess.run([sys.executable, "-c", code, __file__.rpartition("/")[0], str(tmp_path)], check=True)


def test_the_order_of_keys_never_matters(tmp_path):
    options = {"rank": 3, "experts": {"affine": 1, "cross_attention": 1}, "balance_coef": 0.5}
    points = [{"image": 1, "text": 0}, {"image": 3, "text": 1}]
    streams = {"image": "towers.image.encoder.layers.*", "text": "towers.text.encoder.layer.*"}

    def build(turn: bool) -> nn.Module:
        def order(d: dict) -> dict:
            return dict(reversed(d.items())) if turn else d

        base = pair()
        base = MultimodalModel(order(dict(base.towers.items())), base.head)
        config = HMMoEConfig(
            **{**options, "experts": order(options["experts"])},
            streams=order(streams),
            points=[order(p) for p in points],
        )
        torch.manual_seed(1)
        return hmmoe.get_peft_model(base, config)

    model = wake(build(False))
    learned = answer(model)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items()))))
    turned = build(True)
    assert get_peft_model_state_dict(turned).keys() == get_peft_model_state_dict(model).keys()
    set_peft_model_state_dict(turned, load_file(tmp_path / "adapter_model.safetensors"))
    torch.testing.assert_close(answer(turned), learned)
    base = pair()
    base = MultimodalModel(dict(reversed(base.towers.items())), base.head)
    torch.testing.assert_close(answer(hmmoe.from_pretrained(base, tmp_path)), learned)


def test_the_given_config_stays_as_it_is_and_the_models_own_is_resolved():
    config = HMMoEConfig(budget=0.2)
    model = hmmoe.get_peft_model(pair(), config)
    assert (config.points, config.widths, config.rank, config.budget) == (None, None, None, 0.2)
    own = model.peft_config["default"]
    assert own.points == [{"image": 1, "text": 0}, {"image": 3, "text": 1}]
    assert own.widths == {"image": [16, 16], "text": [24, 24]}
    assert own.depths == {"image": 4, "text": 2}
    counts = model.base_model.parameter_counts()
    added = counts["adapter"] + counts["router"]
    assert added / (counts["backbone"] + added) <= 0.2


def test_parameters_are_counted_apart(capsys):
    model = adapted()
    model.print_trainable_parameters()
    counts = model.base_model.parameter_counts()
    assert counts["backbone"] == sum(p.numel() for p in pair().towers.parameters())
    assert counts["head"] == sum(p.numel() for p in pair().head.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["adapter"] + counts["router"] + counts["head"] == trained
    said = capsys.readouterr().out
    assert f"router {counts['router']:,}" in said
    assert "adapters / (backbones + adapters) = " in said


def test_several_adapters_live_side_by_side(tmp_path):
    model = wake(adapted(), 0.5)
    frozen, first = answer(pair()), answer(model)
    model.add_adapter(
        "second", HMMoEConfig(rank=2, points=[{"image": 0, "text": 0}], modules_to_save=["head"])
    )
    same(answer(model), first)
    model.set_adapter("second")
    same(answer(model), frozen)
    assert all("second" in n for n, p in model.named_parameters() if p.requires_grad)
    wake(model, 0.5)
    second = answer(model)
    assert not torch.equal(second, frozen)
    model.set_adapter("default")
    model.save_pretrained(tmp_path)
    same(answer(hmmoe.from_pretrained(pair(), tmp_path / "second")), second)
    same(answer(hmmoe.from_pretrained(pair(), tmp_path, subfolder="second")), second)
    model.set_adapter("second")
    with model.disable_adapter():
        same(answer(model), frozen)
    same(answer(model), second)
    model.delete_adapter("default")
    same(answer(model), second)
    assert not any(".default." in n for n, _ in model.named_parameters())


def test_two_adapters_can_be_active_at_once():
    model = wake(adapted(balance_coef=1.0))
    model.add_adapter("second", HMMoEConfig(rank=2))
    model.base_model.set_adapter(["default", "second"])
    wake(model)
    both = answer(model)
    assert model.train()(**BATCH).aux_loss.item() > 0
    model.base_model.set_adapter(["default"])
    assert not torch.equal(answer(model), both)


def test_adapters_added_in_eval_mode_stay_in_it():
    model = hmmoe.get_peft_model(pair().eval(), HMMoEConfig(rank=2, modality_dropout=0.5))
    assert not any(m.training for m in model.get_base_model().modules())


def test_merging_is_refused_and_unloading_offered():
    model = hmmoe.get_peft_model(pair(), HMMoEConfig(rank=2))
    for merge in (model.merge_and_unload, model.base_model.merge_adapter):
        with pytest.raises(NotImplementedError, match=r"cannot be merged.*use unload"):
            merge()
    base = wake(model).unload()
    same(answer(base), answer(pair()))
    assert not any(isinstance(m, HMMoEBlock) for m in base.modules())
    assert not base._forward_hooks
    assert not base._forward_pre_hooks


def test_injection_without_pefts_wrapper(tmp_path):
    model = inject_adapter_in_model(HMMoEConfig(rank=4), pair())
    assert isinstance(model, MultimodalModel)
    wake(model)
    learned = answer(model)
    state = get_peft_model_state_dict(model)
    other = inject_adapter_in_model(HMMoEConfig(rank=4), pair())
    set_peft_model_state_dict(other, state)
    same(answer(other), learned)
    model.train()
    assert model(**BATCH).aux_loss is not None


def test_copies_and_pickles_are_independent():
    model = wake(adapted())
    model(**BATCH)  # with a routing to carry along
    learned = answer(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    wake(model, 1.0)
    assert not torch.equal(answer(model), learned)
    for copied in copies:
        same(answer(copied), learned)
        wake(copied, 1.0)
        assert not torch.equal(answer(copied), learned)


def test_other_methods_go_through_to_peft():
    lora = peft.LoraConfig(target_modules=r"towers\..*query")
    assert hmmoe.get_peft_model(pair(), lora).peft_type == "LORA"


def test_a_head_inside_a_tower_is_not_the_task_head():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = tf.SiglipVisionModel(tf.SiglipVisionConfig(**small, image_size=16, patch_size=8))
    assert hasattr(image, "head")
    model = MultimodalModel({"image": image}, LinearHead({"image": 16}))
    model = hmmoe.get_peft_model(model, HMMoEConfig(rank=2, modules_to_save=["head"]))
    trained = [n for n, p in model.named_parameters() if p.requires_grad and "hmmoe" not in n]
    assert sorted(trained) == [
        f"base_model.model.head.modules_to_save.default.linear.{w}" for w in ("bias", "weight")
    ]


def test_routing_is_collected_per_point_and_costs_no_graph():
    model = adapted(router="token")
    assert model.routing() == {}
    model(**BATCH)
    routing = model.routing()
    assert sorted(routing) == [0, 1]
    assert routing[0]["image"].shape == (3, 5, 6)
    assert routing[1]["text"].shape == (3, 6, 6)
    assert not routing[0]["image"].requires_grad
    with model.disable_adapter():
        model(**BATCH)
    assert model.routing() == {}


def test_auxiliary_losses_join_the_loss_in_training_only():
    model = adapted(balance_coef=3.0, z_coef=0.5)
    model.eval()
    task = model(**BATCH).loss
    assert model(**BATCH).aux_loss is None
    model.train()
    output = model(**BATCH)
    balance, z = model.get_base_model().hmmoe_last.losses["default"]
    torch.testing.assert_close(output.aux_loss, 3 * balance + 0.5 * z)
    torch.testing.assert_close(output.loss, task + output.aux_loss)
    assert model(**{**BATCH, "labels": None}).loss is None


def test_the_first_bad_fusion_point_can_be_found():
    model = wake(adapted())
    assert model.first_nonfinite(**BATCH) is None
    block = model.get_base_model().towers["image"].encoder.layers[3]
    with torch.no_grad():
        block.hmmoe_layers["default"].up["text"][0, 0] = float("nan")
    assert model.first_nonfinite(**BATCH) == "fusion point 1, stream 'text'"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_adapters_follow_the_towers_precision_but_not_below_float32(dtype):
    model = hmmoe.get_peft_model(pair().to(dtype), HMMoEConfig(rank=2))
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for n, p in model.named_parameters() if "hmmoe_layers" in n} == {kept}
    image = {k: v.to(dtype) for k, v in BATCH["image"].items()}
    assert model(image=image, text=BATCH["text"]).logits.dtype == dtype


def test_the_meta_device_is_enough_to_solve_a_budget():
    with torch.device("meta"):
        towers = {
            "image": tf.ViTModel(tf.ViTConfig(num_hidden_layers=2)),
            "audio": tf.ASTModel(tf.ASTConfig(num_hidden_layers=2)),
        }
    model = hmmoe.get_peft_model(MultimodalModel(towers, nn.Identity()), HMMoEConfig(budget=0.05))
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"streams": {"image": "towers.image.encoder.layer.*"}},
            r"streams\['image'\].*nearest is 'towers.image",
        ),
        ({"streams": {"imag": "towers.image.**"}}, "unknown stream in streams 'imag', did you mean 'image'"),
        ({"points": [{"image": 9, "text": 0}]}, "block 9 of stream 'image', which has 4"),
        ({"points": 3}, "between 1 and 2, the depth of stream 'text'"),
        (
            {"widths": {"image": [16, 16, 16]}},
            r"widths\['image'\] must hold one width per fusion point, 2, got 3",
        ),
        ({"points": [1, 2]}, r"points\[0\] must be stream -> number of its block, e.g. \{image: 0\}, got 1"),
        ({"points": [{"image": "last", "text": 0}]}, r"points\[0\] must be stream -> number.*'last'"),
        ({"modules_to_save": ["hed"]}, "unknown module in modules_to_save 'hed', did you mean 'head'"),
        ({"rank": None, "budget": 1e-5}, "smallest share"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
        ({"spans": {"a": [0, 2], "b": [2, None]}, "points": [{"a": 0, "b": 1}]}, "meet in one block"),
    ],
)
def test_configs_that_do_not_fit_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        hmmoe.get_peft_model(pair(), HMMoEConfig(**{"rank": 2, **options}))


def test_a_model_that_is_no_container_must_name_its_blocks():
    with pytest.raises(ValueError, match="streams must map each modality"):
        hmmoe.get_peft_model(nn.Linear(2, 2), HMMoEConfig(rank=2))


def test_an_adapter_name_from_inside_is_refused():
    with pytest.raises(ValueError, match="adapter_name='text' is a name inside"):
        hmmoe.get_peft_model(pair(), HMMoEConfig(rank=2), "text")


def wider() -> MultimodalModel:
    text = tf.BertModel(
        tf.BertConfig(
            vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    )
    return MultimodalModel({"image": pair().towers["image"], "text": text}, nn.Identity())


def of_another_family() -> MultimodalModel:
    text = tf.ElectraModel(
        tf.ElectraConfig(
            vocab_size=50, embedding_size=24, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2,
        )
    )  # fmt: skip
    return MultimodalModel({"image": pair().towers["image"], "text": text}, nn.Identity())


def renamed() -> MultimodalModel:
    return MultimodalModel({"image": pair().towers["image"], "audio": pair().towers["text"]}, nn.Identity())


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (wider, "for a stream 'text' 24 wide; this model's is 32 wide at towers.text.encoder.layer.0"),
        (lambda: pair(text_layers=3), "for a tower 'text' of 2 blocks; this model's has 3"),
        (of_another_family, "for a tower 'text' of BertLayer blocks; this model's are ElectraLayer"),
        (renamed, "for streams image, text; this model has audio, image"),
    ],
)
def test_adapters_of_other_towers_say_what_differs(other, says, tmp_path):
    hmmoe.get_peft_model(pair(), HMMoEConfig(rank=2)).save_pretrained(tmp_path)
    for load in (hmmoe.from_pretrained, PeftModel.from_pretrained):
        with pytest.raises(ValueError, match=says):
            load(other(), str(tmp_path))


def test_damaged_and_foreign_files_say_so(tmp_path):
    model = hmmoe.get_peft_model(pair(), HMMoEConfig(rank=2))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole, weights = file.read_bytes(), {k: v.clone() for k, v in load_file(file).items()}  # not mapped
    some = sorted(weights)[0]

    def refused(says: str) -> None:
        with pytest.raises(ValueError, match=says):
            hmmoe.from_pretrained(pair(), tmp_path)

    file.write_bytes(whole[: len(whole) // 2])
    refused("cut short or no safetensors file")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is cut short"):
        hmmoe.get_peft_model(pair(), HMMoEConfig(rank=2)).load_adapter(tmp_path, "second")
    file.write_bytes(b"PK\x03\x04 not at all")
    refused("cut short or no safetensors file")
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(1)}, file)
    refused("no weights for")
    save_file({k: v for k, v in weights.items() if k != some}, file)
    refused("no weights for")
    save_file({**weights, some: torch.zeros(1)}, file)
    refused(r"is \(1,\) there")
    save_file({**weights, some.replace("layers.1", "layers.9"): torch.zeros(1)}, file)
    refused("no place for")
    file.write_bytes(whole)
    config = (tmp_path / "adapter_config.json").read_text()
    for text, says in (
        (config[:50], r"adapter_config\.json is cut short"),
        ("[]", r"adapter_config\.json is cut short or no adapter's config"),
        (config.replace("HMMOE", "HMOE"), "unknown peft_type in .*'HMOE', did you mean 'HMMOE'"),
    ):
        (tmp_path / "adapter_config.json").write_text(text)
        refused(says)
    file.unlink()
    refused("holds no adapter_model.safetensors")
    (tmp_path / "adapter_model.bin").touch()
    refused("weights load from safetensors only")
    with pytest.raises(ValueError, match=r"holds no adapter_config.json"):
        hmmoe.from_pretrained(pair(), tmp_path.parent)


def test_streams_of_different_groups_get_layers_of_their_own(tmp_path):
    def build():
        torch.manual_seed(0)
        towers = {
            m: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2) for m in "ast"
        }
        return hmmoe.MultimodalModel(towers, Mean(), groups=[["s"], ["a", "t"]])

    class Mean(nn.Module):
        def forward(self, states, masks):
            return sum(x.mean(1) for x in states.values())

        def loss(self, logits, labels):
            return ((logits - labels) ** 2).mean()

    inputs = {m: {"src": torch.randn(4, 5, 8)} for m in "ast"}
    model = hmmoe.get_peft_model(build(), hmmoe.HMMoEConfig(rank=2))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(**inputs, labels=torch.randn(4, 8)).loss.backward()
        optimiser.step()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert {frozenset(p) for p in model.peft_config["default"].points} == {frozenset("s"), frozenset("at")}
    model.eval().save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(build(), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)
