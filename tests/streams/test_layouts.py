import pytest
import torch
import transformers as tf
from torch import nn

from hmmoe.streams.layouts import (
    add_update,
    channels_first,
    is_convolutional,
    main_tensor,
    real_tokens,
    replace_main,
    to_tokens,
    told_mask,
)


@pytest.mark.parametrize(
    ("shape", "convolutional"),
    [
        ((2, 5, 8), False),
        ((2, 3, 4, 8), False),  # (B, H, W, D)
        ((2, 8, 3, 4), True),  # (B, D, H, W)
        ((2, 2, 3, 4, 8), False),  # windows
        ((2, 8, 2, 3, 4), True),  # (B, D, T, H, W)
        ((2, 8, 8, 8), True),
        ((2, 8, 8, 8), False),
    ],
)
def test_an_update_lands_on_the_token_it_was_made_for(shape, convolutional):
    x = torch.randn(shape)
    tokens = to_tokens(x, 8, convolutional)
    assert tokens.dim() == 3
    assert tokens.shape[-1] == 8
    torch.testing.assert_close(add_update(x, tokens, 8, convolutional), 2 * x)


def test_channels_first_is_told_by_width_and_else_by_the_kind_of_block():
    assert channels_first(torch.zeros(2, 8, 4, 4), 8)
    assert not channels_first(torch.zeros(2, 4, 4, 8), 8)
    assert channels_first(torch.zeros(2, 8, 4, 8), 8, convolutional=True)
    assert not channels_first(torch.zeros(2, 8, 8), 8, convolutional=True)
    assert is_convolutional(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(ValueError, match="no axis is 7 wide"):
        to_tokens(torch.zeros(2, 4, 4), 7)


def test_states_are_found_and_replaced_in_what_blocks_return():
    x, y = torch.zeros(1), torch.ones(1)
    assert replace_main(x, y) is y
    assert replace_main((x, None), y) == (y, None)
    assert replace_main([x, 3], y) == [y, 3]
    output = tf.modeling_outputs.BaseModelOutput(last_hidden_state=x, attentions=(x,))
    assert main_tensor(output) is x
    changed = replace_main(output, y)
    assert changed.last_hidden_state is y
    assert changed.attentions == (x,)
    with pytest.raises(TypeError, match="starts with one"):
        main_tensor((None,))


REAL = torch.tensor([[True, True, False], [True, False, False]])


def additive(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    "mask",
    [
        REAL,
        REAL.long(),
        REAL.float(),
        REAL[:, None, None],
        additive(REAL[:, None, None]),
        REAL[:, None, None].expand(2, 1, 3, 3),
        REAL[:, None, None] & torch.ones(3, 3, dtype=torch.bool).tril(),  # causal
        additive(REAL[:, None, None] & (torch.eye(3) + torch.eye(3).roll(1, 0)).bool()[None, None]),  # local
        REAL[:, None].expand(2, 3, 3),
    ],
)
def test_any_attention_mask_says_which_tokens_are_real(mask):
    assert torch.equal(real_tokens(mask), REAL)


def test_torch_masks_mark_padding_instead():
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)
    told = told_mask(layer, (torch.zeros(2, 3, 4), None, ~REAL), {})
    assert told is not None
    assert torch.equal(real_tokens(*told), REAL)


def test_masks_are_found_among_positional_and_keyword_inputs():
    layer = tf.models.bert.modeling_bert.BertLayer(
        tf.BertConfig(hidden_size=4, num_attention_heads=1, intermediate_size=4)
    )
    x = torch.zeros(2, 3, 4)
    for told in (told_mask(layer, (x, REAL), {}), told_mask(layer, (x,), {"attention_mask": REAL})):
        assert told is not None
        assert told[0] is REAL
    assert told_mask(layer, (x,), {"attention_mask": None}) is None
