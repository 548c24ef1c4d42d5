import doctest

import pytest
import torch
import transformers as tf
from torch import nn

import hmmoe
from hmmoe import HMMoEConfig, MultimodalModel
from hmmoe.streams import block_width, find_blocks, match_blocks, points, spread, spread_by_stage, stages


def block(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class ExampleStage(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.downsampling = nn.ModuleList([nn.LayerNorm(width), nn.Linear(width, width)])
        self.layers = nn.ModuleList(block(width) for _ in range(depth))


class Staged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4))
        self.stages = nn.ModuleList([ExampleStage(4, 1), ExampleStage(8, 2)])


def test_examples_in_the_docstrings():
    assert doctest.testmod(points).failed == 0


def test_blocks_are_found_through_stages_and_in_order():
    assert find_blocks(Staged()) == ["stages.0.layers.0", "stages.1.layers.0", "stages.1.layers.1"]


def test_attention_blocks_win_over_a_larger_convolutional_stem():
    config = tf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    assert find_blocks(tf.Wav2Vec2Model(config)) == ["encoder.layers.0", "encoder.layers.1"]


def test_a_module_without_a_list_of_blocks_says_what_to_do():
    with pytest.raises(ValueError, match="streams="):
        find_blocks(nn.Linear(2, 2))


def test_adapted_towers_have_the_blocks_they_had():
    tower = Staged()
    before = find_blocks(tower)
    wrapper = nn.Module()
    wrapper.base_layer = tower.stages[1].layers[1]
    tower.stages[1].layers[1] = wrapper
    assert find_blocks(tower) == before


@pytest.mark.parametrize(
    ("depths", "k", "expected"),
    [
        ({"a": 24, "b": 12}, None, [(2 * i + 1, i) for i in range(12)]),
        ({"a": 12, "b": 12}, 3, [(3, 3), (7, 7), (11, 11)]),
        ({"a": 5, "b": 3}, None, [(1, 0), (3, 1), (4, 2)]),
    ],
)
def test_points_are_spread_evenly_and_end_at_the_last_blocks(depths, k, expected):
    assert spread(depths, k) == [{"a": a, "b": b} for a, b in expected]


@pytest.mark.parametrize("k", [0, 5])
def test_more_points_than_blocks_is_an_error_that_names_the_stream(k):
    with pytest.raises(ValueError, match="between 1 and 4, the depth of stream 'b'"):
        spread({"a": 8, "b": 4}, k)


def test_stages_meet_stage_by_stage():
    found = spread_by_stage({"image": [2, 2, 18, 2], "audio": [2, 2, 6, 2]})
    assert len(found) == 12
    assert [p["image"] for p in found] == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 22, 23]
    assert [p["audio"] for p in found] == list(range(12))
    with pytest.raises(ValueError, match="same number of stages"):
        spread_by_stage({"image": [2, 2], "audio": [4]})


def test_swinv2_large_meets_hts_at_at_twelve_points_by_itself():
    with torch.device("meta"):
        image = tf.Swinv2Model(
            tf.Swinv2Config(embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], image_size=192)
        )
        audio = tf.ClapAudioModel(tf.ClapAudioConfig())
    assert stages(find_blocks(image)) == [2, 2, 18, 2]
    model = MultimodalModel({"image": image, "audio": audio}, nn.Identity())
    config = hmmoe.get_peft_model(model, HMMoEConfig(budget=0.06)).peft_config["default"]
    assert len(config.points) == 12
    assert config.widths["image"] == [192] * 2 + [384] * 2 + [768] * 6 + [1536] * 2
    assert config.widths["audio"] == [96] * 2 + [192] * 2 + [384] * 6 + [768] * 2


def test_globs_name_blocks_and_a_wrong_one_names_the_nearest_path():
    tower = Staged()
    assert match_blocks(tower, "stages.*.layers.*", "image") == find_blocks(tower)
    assert match_blocks(tower, "stages.1.layers.*", "image") == ["stages.1.layers.0", "stages.1.layers.1"]
    with pytest.raises(
        ValueError, match=r"streams\['image'\] = 'stages.2.layers.0'.*nearest is 'stages.1.layers.0'"
    ):
        match_blocks(tower, "stages.2.layers.0", "image")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no fusion point"),
        ([{}], "names no stream"),
        ([{"imge": 0}], "did you mean 'image'"),
        ([{"image": 4}], "block 4 of stream 'image', which has 4"),
        ([{"image": 1}, {"image": 1}], "not after the point before"),
        ([{"image": -1}, {"image": 0}], "not after the point before"),
    ],
)
def test_explicit_points_are_checked(given, says):
    with pytest.raises(ValueError, match=says):
        points.explicit(given, {"image": 4})


def test_explicit_points_count_from_the_end():
    assert points.explicit([{"image": -3}, {"image": -1}], {"image": 4}) == [{"image": 1}, {"image": 3}]


def test_widths_are_read_off_blocks_or_asked_for():
    assert block_width(block(6), "x") == 6
    assert block_width(nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)), "x") == 5
    assert block_width(nn.TransformerEncoderLayer(8, 2, 32), "x") == 8
    with pytest.raises(ValueError, match=r"width of stream 'image'.*widths="):
        block_width(nn.ReLU(), "stream 'image'")
