"""Every method through one interface: what learns, how much, unchanged at the start, saved, loaded."""

import re

import pytest
import torch
from torch import nn

from hmmoe.container import MultimodalModel
from hmmoe.methods import METHODS, Budgeted, count_parts, make_method, share
from hmmoe.methods.base import plan_of
from hmmoe.tasks.heads import PooledHead

BUDGET = 0.3


class Block(nn.Module):
    def __init__(self, width, conv):
        super().__init__()
        self.conv = conv
        if conv:
            self.mix = nn.Conv2d(width, width, 1)
            self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        else:
            self.mix = nn.Linear(width, width)
        self.norm = nn.BatchNorm2d(width) if conv else nn.LayerNorm(width)

    def forward(self, x):
        return x + self.norm(self.deep(self.mix(x)) if self.conv else self.mix(x)).tanh()


class Encoder(nn.Module):
    def __init__(self, width, depth, conv=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, conv) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def towers_and_head(seed=0):
    torch.manual_seed(seed)
    towers = {"image": Encoder(64, 6, conv=True), "text": Encoder(48, 3)}
    return MultimodalModel(towers, PooledHead({"image": 64, "text": 48}, 3)).eval()


def batch():
    return {
        "image": {"x": torch.randn(2, 64, 4, 4)},
        "text": {"x": torch.randn(2, 5, 48)},
        "labels": torch.tensor([0, 2]),
    }


def options(name, **more):
    sized = {"budget": BUDGET, "points": 2} if issubclass(METHODS[name], Budgeted) else {}
    return {"name": name} | sized | more


@pytest.mark.parametrize("name", METHODS)
def test_only_head_and_adapters_learn_and_the_start_is_the_frozen_model(name):
    inputs = batch()
    plain = towers_and_head()(**inputs).logits
    model = make_method(options(name)).build(towers_and_head()).eval()
    torch.testing.assert_close(model(**inputs).logits, plain, rtol=0, atol=1e-6)

    frozen = {k: v.clone() for k, v in model.named_parameters() if not v.requires_grad}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.train()(**inputs).loss.backward()
        optimiser.step()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[k], v) for k, v in frozen.items())
    assert all(v.grad is not None for v in now.values() if v.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_head_weights_are_the_same_for_all_methods(name):
    model = make_method(options(name)).build(towers_and_head(seed=5))
    head = next(
        p for k, p in model.named_parameters() if p.requires_grad and ".answer" in f".{k}" and p.ndim == 2
    )
    assert torch.equal(head, towers_and_head(seed=5).head.answer.weight)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if issubclass(m, Budgeted)])
def test_the_share_is_the_largest_within_the_budget(name):
    def measured(**size):
        parts = count_parts(make_method({"name": name, "points": 2} | size).build(towers_and_head()))
        towers = sum(p.numel() for p in towers_and_head().towers.parameters())
        assert parts["backbone"] == towers or name == "vl_adapter"  # which tunes their norms too
        assert parts["backbone"] + parts["adapter"] > towers
        return share(parts["adapter"], parts["backbone"])

    within = measured(budget=BUDGET)
    assert 0.5 * BUDGET < within <= BUDGET
    rank = next(r for r in range(1, 99) if measured(rank=r) == within)
    assert measured(rank=rank + 1) > BUDGET


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if issubclass(m, Budgeted)])
def test_a_budget_below_rank_one_says_the_smallest_share(name):
    with pytest.raises(ValueError, match=r"smallest share here, at rank.*1, is 0\.\d+"):
        make_method(options(name, budget=1e-5)).build(towers_and_head())


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_is_bit_equal(name, tmp_path):
    inputs = batch()
    method = make_method(options(name))
    model = method.build(towers_and_head())
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    method.save(model, str(tmp_path))
    loaded = method.load(towers_and_head(), str(tmp_path))
    for m in (model, loaded):
        m.eval().requires_grad_(False)  # torch picks its kernels by it
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert all(file.suffix != ".bin" for file in tmp_path.iterdir())


@pytest.mark.parametrize("name", METHODS)
def test_damaged_weights_and_those_of_other_towers_are_refused_by_name(name, tmp_path):
    sized = {"rank": 2, "points": 2} if issubclass(METHODS[name], Budgeted) else {}
    method = make_method({"name": name} | sized)
    method.save(method.build(towers_and_head()), str(tmp_path))
    wider = MultimodalModel(
        {"image": Encoder(64, 6, conv=True), "text": Encoder(56, 3)}, PooledHead({"image": 64, "text": 56}, 3)
    )
    with pytest.raises(
        ValueError, match=r"weights of another .* is \(.* there and \(.* in|made for a stream"
    ):
        method.load(wider, str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{file.name} is cut short or no safetensors file"):
        method.load(towers_and_head(), str(tmp_path))
    file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=file.name):
        method.load(towers_and_head(), str(tmp_path))


def test_lora_adapts_exactly_the_blocks_of_the_fusion_points():
    model = towers_and_head()
    last = plan_of(model, [{"image": -1, "text": 0}])
    assert last.paths == {"towers.image.blocks.5", "towers.text.blocks.0"}
    built = make_method(options("lora")).build(model)
    learning = {
        k.split(".lora_")[0] for k, p in built.named_parameters() if p.requires_grad and ".lora_" in k
    }
    found = {k.removeprefix("base_model.model.towers.") for k in learning}
    assert found == {"image.blocks.2.mix", "image.blocks.5.mix", "text.blocks.1.mix", "text.blocks.2.mix"}


@pytest.mark.parametrize("name", ["lora", "adapter", "dg_sct", "hmmoe"])
def test_without_points_staged_towers_are_adapted_at_the_same_blocks_by_all_methods(name):
    model = towers_and_head()
    for stream, depths in (("image", (1, 3)), ("text", (2, 1))):
        width = {"image": 64, "text": 48}[stream]
        stages = [nn.ModuleList(Block(width, stream == "image") for _ in range(depth)) for depth in depths]
        model.towers[stream].blocks = nn.ModuleList(stages)
    built = make_method({"name": name, "rank": 2}).build(model)
    learning = [k for k, p in built.named_parameters() if p.requires_grad]
    wrapped = [k for k, m in built.named_modules() if type(m).__name__ == "HMMoEBlock"]
    matches = [re.search(r"(image|text)\.blocks\.\d\.\d", k) for k in learning + wrapped]
    found = {match[0] for match in matches if match}
    by_stage = {"image.blocks.0.0", "image.blocks.1.2", "text.blocks.0.1", "text.blocks.1.0"}
    assert found == by_stage


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="unknown method 'lra', did you mean 'lora'"):
        make_method({"name": "lra"})
    with pytest.raises(ValueError, match=r"method\.budgt.*did you mean 'budget'"):
        make_method({"name": "lora", "budgt": 0.1})
    with pytest.raises(ValueError, match="'lora' needs exactly one of budget and rank"):
        make_method({"name": "lora"})
    with pytest.raises(ValueError, match=r"method\.budget"):
        make_method({"name": "frozen", "budget": 0.1})
    with pytest.raises(ValueError, match="unknown stream in points 'sound'"):
        make_method(options("lora", points=[{"sound": 1}])).build(towers_and_head())
