"""VLMo against a straight-line computation from the official state dict, and the conversion of such dicts."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hmmoe.backbones.vlmo import (
    PRESETS,
    VlmoConfig,
    VlmoForNlvr2,
    VlmoForQuestionAnswering,
    VlmoModel,
    VlmoProcessor,
)
from hmmoe.backbones.vlmo.positions import (
    geometric_positions,
    relative_position_index,
    resize_bias_table,
    resize_position_embedding,
    spline_matrix,
    table_rows,
)

WIDTH, DEPTH, HEADS, FUSION, WORDS, ANSWERS = 24, 4, 3, 2, 50, 7
SIZE, GRID, LENGTH = (
    48,
    3,
    6,
)  # 48 pixels in patches of 16: a grid of 3, sequence [6 words ; 1 + 9 image tokens]


def small(**overrides):
    fields = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "fusion_layer": FUSION,
        "vocab_size": WORDS,
        "image_size": SIZE,
        "max_text_length": 8,
        "num_answers": ANSWERS,
    }
    return VlmoConfig(**{**fields, **overrides})


def small_absolute(**overrides):
    return small(position_embedding="absolute", layer_scale=None, **overrides)


def official(*, absolute=False, heads=(), vl=True, grid=GRID, types=2, positions=8, width=WIDTH, depth=DEPTH):
    """Random weights under the official names, with the other things such checkpoints hold."""
    random = torch.Generator().manual_seed(1)
    state = {}

    def weight(name, *shape, scale=0.3, shift=0.0):
        state[name] = torch.randn(*shape, generator=random) * scale + shift

    def linear(name, out, inner, bias=True):
        weight(f"{name}.weight", out, inner, scale=1.5 / math.sqrt(inner))
        if bias:
            weight(f"{name}.bias", out)

    def norm(name, size):
        weight(f"{name}.weight", size, shift=1.0)
        weight(f"{name}.bias", size)

    if not absolute:
        rows = (2 * grid - 1) ** 2 + 3 + 2 + 2 * 196
        weight("relative_position_bias_table", rows, HEADS * depth, scale=1.0)
    weight("transformer.cls_token", 1, 1, width)
    if absolute:
        weight("transformer.pos_embed", 1, 1 + grid**2, width)
    weight("transformer.patch_embed.proj.weight", width, 3, 16, 16, scale=0.05)
    weight("transformer.patch_embed.proj.bias", width)
    for i in range(depth):
        block = f"transformer.blocks.{i}"
        if not absolute:
            weight(f"{block}.gamma_1", width, shift=0.5)
            weight(f"{block}.gamma_2", width, shift=0.5)
        norm(f"{block}.norm1", width)
        weight(f"{block}.attn.q_bias", width)
        weight(f"{block}.attn.v_bias", width)
        linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
        linear(f"{block}.attn.proj", width, width)
        for way in ("text", "imag", "vl"):
            if way != "vl" or (vl and i >= FUSION):
                norm(f"{block}.norm2_{way}", width)
                linear(f"{block}.mlp_{way}.fc1", 4 * width, width)
                linear(f"{block}.mlp_{way}.fc2", width, 4 * width)
    norm("transformer.norm", width)
    state["text_embeddings.position_ids"] = torch.arange(positions)[None]
    weight("text_embeddings.word_embeddings.weight", WORDS, width)
    weight("text_embeddings.position_embeddings.weight", positions, width)
    weight("text_embeddings.token_type_embeddings.weight", 2, width)
    norm("text_embeddings.LayerNorm", width)
    weight("token_type_embeddings.weight", types, width)
    linear("pooler.dense", width, width)
    linear("mlm_score.decoder", WORDS, width, bias=False)
    state["relative_position_index"] = torch.zeros(10, 10)
    state["logit_scale"] = torch.tensor(2.6)
    for head, inner, out in (("vqa", width, ANSWERS), ("nlvr2", 2 * width, 2)):
        if head in heads:
            linear(f"{head}_classifier.0", 2 * width, inner)
            norm(f"{head}_classifier.1", 2 * width)
            linear(f"{head}_classifier.3", out, 2 * width)
    return state


# --- the straight-line computation: official names, explicit loops, no code of ours


def plain_linear(s, name, x):
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def plain_norm(s, name, x, eps):
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return y * s[f"{name}.weight"] + s[f"{name}.bias"]


def plain_gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def plain_row(query, key, words):
    """Row of the table for a pair of tokens, each numbered along [words ; image CLS ; patches]."""
    patches, rows = (2 * GRID - 1) ** 2, (2 * GRID - 1) ** 2 + 3 + 2 * 196 + 2
    text_query, text_key = query < words, key < words
    if text_query != text_key:
        return patches + 3 if text_query else patches + 4
    if text_query:
        if query == 0 or key == 0:
            return rows - (1 if query == key else 3 if query == 0 else 2)
        return (key - query) + 194 + patches + 3 + 2
    query, key = query - words, key - words
    if query == 0 or key == 0:
        return patches + (2 if query == key else 0 if query == 0 else 1)
    (y, x), (v, u) = divmod(query - 1, GRID), divmod(key - 1, GRID)
    return (y - v + GRID - 1) * (2 * GRID - 1) + (x - u + GRID - 1)


def plain_vlmo(s, ids=None, mask=None, pixels=None, image_type=1):
    """Final states and pooled vector, one sample at a time, padded words left out of the keys."""
    s = {name: value.double() for name, value in s.items()}
    states = []
    for sample in range(len(ids) if ids is not None else len(pixels)):
        tokens, real = [], []
        words = 0 if ids is None else ids.shape[1]
        for place in range(words):
            x = s["text_embeddings.word_embeddings.weight"][ids[sample, place]]
            x = x + s["text_embeddings.token_type_embeddings.weight"][0]
            if "transformer.pos_embed" in s:
                x = x + s["text_embeddings.position_embeddings.weight"][place]
            x = plain_norm(s, "text_embeddings.LayerNorm", x, 1e-12)
            tokens.append(x + s["token_type_embeddings.weight"][0])
            real.append(mask is None or bool(mask[sample, place]))
        if pixels is not None:
            image = [s["transformer.cls_token"][0, 0]]
            kernel = s["transformer.patch_embed.proj.weight"].flatten(1)
            for y in range(GRID):
                for x in range(GRID):
                    patch = pixels[sample, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].double()
                    image.append(kernel @ patch.flatten() + s["transformer.patch_embed.proj.bias"])
            for place, x in enumerate(image):
                if "transformer.pos_embed" in s:
                    x = x + s["transformer.pos_embed"][0, place]
                tokens.append(x + s["token_type_embeddings.weight"][image_type])
                real.append(True)
        x = torch.stack(tokens)  # (N, D)
        for i in range(DEPTH):
            x = plain_block(s, i, x, words, torch.tensor(real))
        states.append(plain_norm(s, "transformer.norm", x, 1e-6))
    states = torch.stack(states)
    return states, torch.tanh(plain_linear(s, "pooler.dense", states[:, 0]))


def plain_block(s, i, x, words, real):
    name, n, size = f"transformer.blocks.{i}", len(x), WIDTH // HEADS
    qkv = plain_norm(s, f"{name}.norm1", x, 1e-6) @ s[f"{name}.attn.qkv.weight"].T
    query = qkv[:, :WIDTH] + s[f"{name}.attn.q_bias"]
    key = qkv[:, WIDTH : 2 * WIDTH]
    value = qkv[:, 2 * WIDTH :] + s[f"{name}.attn.v_bias"]
    mixed = torch.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        if "relative_position_bias_table" in s:
            table = s["relative_position_bias_table"][:, i * HEADS + head]
            scores = scores + torch.stack(
                [torch.stack([table[plain_row(a, b, words)] for b in range(n)]) for a in range(n)]
            )
        scores[:, ~real] = -math.inf
        mixed[:, part] = scores.softmax(-1) @ value[:, part]
    scale = s.get(f"{name}.gamma_1", 1.0), s.get(f"{name}.gamma_2", 1.0)
    x = x + scale[0] * plain_linear(s, f"{name}.attn.proj", mixed)

    def expert(way, x):
        y = plain_norm(s, f"{name}.norm2_{way}", x, 1e-6)
        return plain_linear(
            s, f"{name}.mlp_{way}.fc2", plain_gelu(plain_linear(s, f"{name}.mlp_{way}.fc1", y))
        )

    if words == 0:
        y = expert("imag", x)
    elif words == n:
        y = expert("text", x)
    elif f"{name}.mlp_vl.fc1.weight" in s:
        y = expert("vl", x)
    else:
        y = torch.cat([expert("text", x[:words]), expert("imag", x[words:])])
    return x + scale[1] * y


def plain_classifier(s, head, x):
    s = {name: value.double() for name, value in s.items()}
    y = plain_norm(s, f"{head}_classifier.1", plain_linear(s, f"{head}_classifier.0", x), 1e-5)
    return plain_linear(s, f"{head}_classifier.3", plain_gelu(y))


def batch(images=1):
    ids = torch.randint(1, WORDS, (3, LENGTH))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])
    shape = (3, 3, SIZE, SIZE) if images == 1 else (3, images, 3, SIZE, SIZE)
    return ids, mask, torch.randn(shape)


# --- the encoder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("inputs", ["image", "text", "joint"])
def test_states_equal_the_straight_line_computation(inputs, absolute, attention):
    state = official(absolute=absolute)
    config = small_absolute() if absolute else small()
    model = VlmoModel.from_official(state, config).double()
    model.set_attn_implementation(attention)
    ids, mask, pixels = batch()
    ids, mask = (None, None) if inputs == "image" else (ids, mask)
    pixels = None if inputs == "text" else pixels.double()

    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)

    states, pooled = plain_vlmo(state, ids, mask, pixels)
    torch.testing.assert_close(out.last_hidden_state, states, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.pooler_output, pooled, atol=1e-6, rtol=0)


def test_without_a_mask_every_word_counts():
    state = official()
    model = VlmoModel.from_official(state, small()).double()
    ids, _, pixels = batch()
    out = model(input_ids=ids, pixel_values=pixels.double())
    torch.testing.assert_close(
        out.last_hidden_state, plain_vlmo(state, ids, None, pixels)[0], atol=1e-6, rtol=0
    )


def test_padding_changes_nothing_but_itself():
    model = VlmoModel.from_official(official(), small()).double()
    ids, mask, pixels = batch()
    before = model(ids, mask, pixels.double()).last_hidden_state
    ids[1, 4:] = 1
    after = model(ids, mask, pixels.double()).last_hidden_state
    real = torch.cat([mask.bool(), torch.ones(3, 1 + GRID**2, dtype=torch.bool)], dim=1)
    assert torch.equal(before[real], after[real])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [small, small_absolute])
def test_a_text_of_padding_only_stays_finite(make, attention):
    model = VlmoModel(make()).eval()
    model.set_attn_implementation(attention)
    ids, mask, _ = batch()
    mask[1] = 0
    assert model(ids, mask).last_hidden_state.isfinite().all()


def test_hidden_states_and_attentions_on_request():
    model = VlmoModel(small()).eval()
    model.set_attn_implementation("eager")
    out = model(*batch(), output_hidden_states=True, output_attentions=True)
    n = LENGTH + 1 + GRID**2
    assert [h.shape for h in out.hidden_states] == [(3, n, WIDTH)] * (DEPTH + 1)
    assert [a.shape for a in out.attentions] == [(3, HEADS, n, n)] * DEPTH


def test_every_expert_is_reached_and_gets_a_gradient_by_its_own_input():
    model = VlmoModel.from_official(official(), small())
    ids, _, pixels = batch()
    reached = {}
    for inputs in ({"input_ids": ids}, {"pixel_values": pixels}, {"input_ids": ids, "pixel_values": pixels}):
        model.zero_grad(set_to_none=True)
        model(**inputs).pooler_output.sum().backward()
        names = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        reached[tuple(inputs)] = {
            (i, way)
            for i in range(DEPTH)
            for way in ("text", "imag", "vl")
            if f"blocks.{i}.mlp_{way}.fc1.weight" in names
        }
    own = {(i, way) for i in range(FUSION) for way in ("text", "imag")}
    assert reached["input_ids",] == {(i, "text") for i in range(DEPTH)}
    assert reached["pixel_values",] == {(i, "imag") for i in range(DEPTH)}
    assert reached["input_ids", "pixel_values"] == own | {(i, "vl") for i in range(FUSION, DEPTH)}


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = VlmoModel.from_official(official(), small(drop_path_rate=0.0)).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        model(*batch()).pooler_output.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_drop_path_acts_on_whole_samples_in_training_only():
    model = VlmoModel(small(drop_path_rate=0.5))
    x = torch.ones(200, 2, WIDTH)
    drop = model.blocks[-1].drop_path
    dropped = drop.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    assert drop.eval()(x) is x
    assert model.blocks[0].drop_path.rate == 0.0


def test_bfloat16_runs():
    model = VlmoModel(small()).to(torch.bfloat16).eval()
    ids, mask, pixels = batch()
    assert model(ids, mask, pixels.bfloat16()).last_hidden_state.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "neither input_ids nor pixel_values"),
        ({"input_ids": torch.ones(1, 197, dtype=torch.long)}, "197 tokens"),
        ({"pixel_values": torch.ones(1, 3, 32, 32)}, "pixel_values has shape"),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "pixel_values": torch.ones(1, 3, 48, 48)},
            "do not pair",
        ),
    ],
)
def test_bad_input_is_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        VlmoModel(small())(**inputs)


# --- the configuration


@pytest.mark.parametrize(("size", "millions"), [("base", 175), ("base_plus", 167), ("large", 562)])
def test_published_sizes(size, millions):
    with torch.device("meta"):
        model = VlmoModel(VlmoConfig.preset(size))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("pixels", [224, 384, 480])
@pytest.mark.parametrize("size", PRESETS)
def test_every_size_reads_every_published_image_size(size, pixels):
    config = VlmoConfig.preset(size, image_size=pixels, num_hidden_layers=2, fusion_layer=1)
    with torch.device("meta"):
        words, image = torch.ones(1, 40, dtype=torch.long), torch.ones(1, 3, pixels, pixels)
        states = VlmoModel(config).eval()(words, None, image).last_hidden_state
    assert states.shape == (1, 40 + 1 + (pixels // 16) ** 2, config.hidden_size)


@pytest.mark.parametrize("size", PRESETS)
def test_presets_survive_json(size, tmp_path):
    config = VlmoConfig.preset(size, image_size=384, num_token_types=3)
    config.save_pretrained(tmp_path)
    assert VlmoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.grid == 24


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 100}, "image_size=100"),
        ({"num_attention_heads": 5}, "num_attention_heads=5"),
        ({"position_embedding": "relativ"}, "did you mean 'relative'"),
        ({"fusion_layer": 5}, "fusion_layer=5"),
        ({"num_token_types": 4}, "num_token_types=4"),
        ({"max_text_length": 200}, "max_text_length=200"),
    ],
)
def test_config_names_the_field_that_does_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)


def test_preset_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'base_plus'"):
        VlmoConfig.preset("base-plus")
    with pytest.raises(ValueError, match="did you mean 'image_size'"):
        VlmoConfig.preset("base", image_sise=384)


# --- positions


def slow_spline(x, values, t):
    """Cubic not-a-knot spline by solving for the four coefficients of every piece at once."""
    n = len(x) - 1
    rows, right = [], []

    def row(*terms):
        r = np.zeros(4 * n)
        for piece, coefficients in terms:
            r[4 * piece : 4 * piece + 4] += coefficients
        return r

    def powers(s, order):
        return {
            0: np.array([1, s, s**2, s**3]),
            1: np.array([0, 1, 2 * s, 3 * s**2]),
            2: np.array([0, 0, 2, 6 * s]),
            3: np.array([0, 0, 0, 6]),
        }[order]

    for i in range(n):
        rows += [row((i, powers(0, 0))), row((i, powers(x[i + 1] - x[i], 0)))]
        right += [values[i], values[i + 1]]
    for i in range(n - 1):
        for order in (1, 2, 3) if i in (0, n - 2) else (1, 2):
            rows.append(row((i, powers(x[i + 1] - x[i], order)), (i + 1, -powers(0, order))))
            right.append(0)
    c = np.linalg.solve(np.array(rows), np.array(right)).reshape(n, 4)
    out = []
    for s in np.clip(t, x[0], x[-1]):
        i = min(max(i for i in range(n) if x[i] <= s), n - 1)
        out.append(c[i] @ powers(s - x[i], 0))
    return np.array(out)


def slow_resize(z, source, target):
    """One head's square of distances, row by row and then column by column."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q ** (source // 2)) / (1 - q) > target // 2:
            high = q
        else:
            low = q
    away = [sum(q**k for k in range(i + 1)) for i in range(source // 2)]
    x = np.array([-a for a in reversed(away)] + [0] + away)
    t = np.arange(-(target // 2), target // 2 + 1)
    across = np.stack([slow_spline(x, row, t) for row in z])
    return np.stack([slow_spline(x, column, t) for column in across.T]).T


@pytest.mark.parametrize(("source", "target"), [(4, 5), (14, 24), (14, 30), (24, 14)])
def test_table_resize_equals_a_direct_spline(source, target):
    table = torch.randn(table_rows(source), 2, dtype=torch.float64)
    resized = resize_bias_table(table, target)
    old, new = 2 * source - 1, 2 * target - 1
    assert resized.shape == (table_rows(target), 2)
    assert torch.equal(resized[new**2 :], table[old**2 :])
    for head in range(2):
        expected = slow_resize(table[: old**2, head].reshape(old, old).numpy(), old, new)
        np.testing.assert_allclose(resized[: new**2, head].reshape(new, new).numpy(), expected, atol=1e-9)


def test_spline_reproduces_cubics_on_any_grid():
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    t = torch.linspace(-3, 4, 29, dtype=torch.float64)
    cubic = lambda s: 2 - s + 3 * s**2 - 0.5 * s**3  # noqa: E731
    torch.testing.assert_close(spline_matrix(x, t) @ cubic(x), cubic(t))
    torch.testing.assert_close(spline_matrix(x, x), torch.eye(6, dtype=x.dtype))


def test_trained_distances_spread_to_the_new_edge():
    x = geometric_positions(27, 47)
    steps = x.diff()[13:]
    assert x[13] == 0
    assert x[-1] == pytest.approx(23, abs=1e-3)
    torch.testing.assert_close(steps[1:] / steps[:-1], (steps[1] / steps[0]).expand(12))


def test_same_grid_keeps_the_table():
    table = torch.randn(table_rows(4), 2)
    assert resize_bias_table(table, 4) is table


def test_table_of_no_square_image_is_refused():
    with pytest.raises(ValueError, match="no square image"):
        resize_bias_table(torch.zeros(table_rows(4) + 1, 2), 5)
    with pytest.raises(ValueError, match="too small"):
        resize_bias_table(torch.zeros(table_rows(2), 2), 5)


def test_position_index_uses_every_row_within_its_text_length():
    index = relative_position_index(196, 3)
    assert index.shape == (206, 206)
    assert index.unique().tolist() == list(range(table_rows(3)))


def test_absolute_positions_resize_bicubically():
    positions = torch.randn(1, 17, 5)
    resized = resize_position_embedding(positions, 6)
    patches = positions[0, 1:].T.reshape(1, 5, 4, 4)
    expected = F.interpolate(patches, size=(6, 6), mode="bicubic", align_corners=False)
    assert torch.equal(resized[0, 0], positions[0, 0])
    torch.testing.assert_close(resized[0, 1:], expected[0].flatten(1).T)
    assert resize_position_embedding(positions, 4) is positions


# --- the checkpoint


def wrapped(state, form):
    if form == "raw":
        return state
    if form == "module":
        return {"module": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    return {form: state, "epoch": 3}


@pytest.mark.parametrize("form", ["state_dict", "module", "model", "raw"])
def test_every_wrapper_form_loads_from_a_file(form, tmp_path):
    state = official()
    torch.save(wrapped(state, form), tmp_path / "vlmo.pt")
    model = VlmoModel.from_official(tmp_path / "vlmo.pt", small())
    assert torch.equal(model.norm.weight, state["transformer.norm.weight"])
    assert torch.equal(model.blocks[3].mlp_vl.fc1.weight, state["transformer.blocks.3.mlp_vl.fc1.weight"])


def test_safetensors_files_load(tmp_path):
    from safetensors.torch import save_file

    state = official()
    save_file(state, tmp_path / "vlmo.safetensors")
    model = VlmoModel.from_official(tmp_path / "vlmo.safetensors", small())
    assert torch.equal(model.norm.weight, state["transformer.norm.weight"])


def test_every_key_is_accounted_for(caplog):
    state = official(vl=False, heads=("vqa",))
    with caplog.at_level("INFO", logger="hmmoe.backbones.vlmo.convert"):
        _, report = VlmoModel.from_official(state, small(), output_loading_info=True)
    assert set(report.unused) == {
        "text_embeddings.position_ids",
        "text_embeddings.position_embeddings.weight",
        "mlm_score.decoder.weight",
        "relative_position_index",
        "logit_scale",
        *(key for key in state if key.startswith("vqa_classifier.")),
    }
    assert set(report.missing) == {
        f"transformer.blocks.{i}.{part}.{kind}"
        for i in (2, 3)
        for part in ("norm2_vl", "mlp_vl.fc1", "mlp_vl.fc2")
        for kind in ("weight", "bias")
    }
    assert report.changed == ()
    said = " ".join(record.getMessage() for record in caplog.records)
    assert all(key in said for key in (*report.unused, *report.missing))


def test_a_missing_head_is_reported_not_refused():
    _, report = VlmoForQuestionAnswering.from_official(official(), small(), output_loading_info=True)
    assert report.missing == tuple(
        f"vqa_classifier.{i}.{kind}" for i in (0, 1, 3) for kind in ("weight", "bias")
    )


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (official(width=30), {}, r"'transformer.cls_token': \(1, 1, 30\), not \(1, 1, 24\)"),
        (official(depth=5), {}, r"'relative_position_bias_table': .* 15\), not .* 12\)"),
        (official(absolute=True), {}, "no 'relative_position_bias_table'"),
        (official(absolute=True, depth=5), {"absolute": True}, "has 'transformer.blocks.4.norm1.weight'"),
        (official(), {"fusion_layer": 1}, "no 'transformer.blocks.1.norm2_vl.weight'"),
        (official(), {"fusion_layer": 3}, "'transformer.blocks.2.norm2_vl.weight', for which"),
        (
            official(),
            {"vocab_size": 60},
            r"'text_embeddings.word_embeddings.weight': \(50, 24\), not \(60, 24\)",
        ),
        (official(types=3), {}, "set num_token_types=3"),
        ({"vision.cls": torch.zeros(3)}, {}, "not one of VLMo .*'vision.cls'"),
        ({}, {}, "not one of VLMo"),
    ],
    ids=[
        "width",
        "depth",
        "family",
        "deeper",
        "fusion-early",
        "fusion-late",
        "words",
        "types",
        "other",
        "empty",
    ],
)
def test_another_size_or_family_is_refused_with_its_first_key(state, config, message):
    config = dict(config)
    make = small_absolute if config.pop("absolute", False) else small
    with pytest.raises(ValueError, match=message):
        VlmoModel.from_official(state, make(**config))


def test_the_refusal_names_the_size_that_would_fit():
    state = {"transformer.cls_token": torch.zeros(1, 1, 768)}
    state |= {f"transformer.blocks.{i}.norm1.weight": torch.zeros(768) for i in range(12)}
    with pytest.raises(ValueError, match=r"preset\('base'\)"):
        VlmoModel.from_official(state, small())


def test_a_file_with_objects_is_refused(tmp_path):
    import argparse

    torch.save({"state_dict": official(), "args": argparse.Namespace(a=1)}, tmp_path / "vlmo.pt")
    with pytest.raises(ValueError, match="objects beside tensors"):
        VlmoModel.from_official(tmp_path / "vlmo.pt", small())
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        VlmoModel.from_official(tmp_path / "damaged.pt", small())
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        VlmoModel.from_official(tmp_path / "list.pt", small())


def test_relative_positions_follow_the_image_size():
    state = official(grid=4)
    model, report = VlmoModel.from_official(state, small(image_size=96), output_loading_info=True)
    assert report.changed == ("relative_position_bias_table",)
    table = model.relative_position_bias_table
    assert torch.equal(table, resize_bias_table(state["relative_position_bias_table"], 6))
    assert model(pixel_values=torch.randn(1, 3, 96, 96)).last_hidden_state.shape == (1, 37, WIDTH)


def test_absolute_positions_follow_image_size_and_text_length():
    state = official(absolute=True, grid=4, positions=20)
    model, report = VlmoModel.from_official(state, small_absolute(), output_loading_info=True)
    assert set(report.changed) == {"transformer.pos_embed", "text_embeddings.position_embeddings.weight"}
    assert torch.equal(
        model.text_embeddings.position_embeddings.weight,
        state["text_embeddings.position_embeddings.weight"][:8],
    )


@pytest.mark.parametrize("cls", [VlmoModel, VlmoForQuestionAnswering, VlmoForNlvr2])
@pytest.mark.parametrize("absolute", [False, True])
def test_saved_models_come_back_equal(cls, absolute, tmp_path):
    make = small_absolute if absolute else small
    model = cls.from_official(official(absolute=absolute, heads=("vqa", "nlvr2")), make(num_token_types=3))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = cls.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_encoder_and_heads_share_saved_weights(tmp_path):
    model = VlmoForQuestionAnswering.from_official(official(heads=("vqa",)), small())
    model.save_pretrained(tmp_path)
    encoder = VlmoModel.from_pretrained(tmp_path)
    assert torch.equal(encoder.norm.weight, model.vlmo.norm.weight)


# --- the heads


def test_question_answering_equals_the_straight_line_computation():
    state = official(heads=("vqa",))
    model = VlmoForQuestionAnswering.from_official(state, small()).double()
    ids, mask, pixels = batch()
    labels = torch.rand(3, ANSWERS)
    out = model(ids, mask, pixels.double(), labels=labels)
    logits = plain_classifier(state, "vqa", plain_vlmo(state, ids, mask, pixels)[1])
    torch.testing.assert_close(out.logits, logits, atol=1e-6, rtol=0)
    target = labels.double()
    each = -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))
    torch.testing.assert_close(out.loss, each.sum(1).mean(), atol=1e-6, rtol=0)


def test_nlvr2_is_two_passes_with_token_types_one_and_two():
    state = official(heads=("nlvr2",), types=3)
    model = VlmoForNlvr2.from_official(state, small(num_token_types=3)).double()
    ids, mask, pixels = batch(images=2)
    labels = torch.tensor([0, 1, 1])
    out = model(ids, mask, pixels.double(), labels=labels)
    pooled = [plain_vlmo(state, ids, mask, pixels[:, i], image_type=1 + i)[1] for i in range(2)]
    logits = plain_classifier(state, "nlvr2", torch.cat(pooled, dim=-1))
    torch.testing.assert_close(out.logits, logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.loss, F.cross_entropy(logits, labels), atol=1e-6, rtol=0)


def test_the_second_image_starts_with_the_token_type_of_the_first():
    state = official(types=2)
    config = small(num_token_types=3)
    model, report = VlmoForNlvr2.from_official(state, config, output_loading_info=True)
    types = state["token_type_embeddings.weight"]
    assert torch.equal(model.vlmo.token_type_embeddings.weight, types[[0, 1, 1]])
    assert "token_type_embeddings.weight" in report.changed


def test_heads_return_hidden_states_and_tuples():
    model = VlmoForQuestionAnswering(small()).eval()
    inputs = dict(zip(("input_ids", "attention_mask", "pixel_values"), batch(), strict=True))
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == DEPTH + 1
    assert model(**inputs, return_dict=False)[0].shape == (3, ANSWERS)


def test_heads_say_what_is_missing():
    ids, mask, pixels = batch(images=2)
    vqa, nlvr2 = VlmoForQuestionAnswering(small()), VlmoForNlvr2(small(num_token_types=3))
    with pytest.raises(ValueError, match="needs both input_ids"):
        vqa(input_ids=ids)
    with pytest.raises(ValueError, match="needs both input_ids"):
        nlvr2(pixel_values=pixels)
    with pytest.raises(ValueError, match=r"\(batch, 2, channels"):
        nlvr2(ids, mask, pixels[:, 0])
    with pytest.raises(ValueError, match="num_token_types=2 must be 3"):
        VlmoForNlvr2(small())


# --- the processor


@pytest.fixture
def processor(tmp_path):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "this", "red", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return VlmoProcessor.for_config(small(), BertTokenizer(vocab=str(tmp_path / "vocab.txt")))


def picture(width=70, height=50):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_images_are_squeezed_to_a_square_and_scaled_to_plus_minus_one(processor):
    pixels = processor(images=picture())["pixel_values"]
    square = picture().resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 * 2 - 1
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0], expected, atol=1e-6, rtol=0)


def test_grey_and_transparent_images_become_rgb(processor):
    assert processor(images=[picture().convert("L"), picture().convert("RGBA")])["pixel_values"].shape == (
        2,
        3,
        SIZE,
        SIZE,
    )


def test_texts_are_padded_and_cut_to_one_length(processor):
    words = processor(text=["What is this?", "red " * 30])
    assert words["input_ids"][0].tolist() == [2, 5, 6, 7, 9, 3, 0, 0]
    assert words["attention_mask"][0].tolist() == [1] * 6 + [0] * 2
    assert words["input_ids"][1].tolist() == [2, 8, 8, 8, 8, 8, 8, 3]


def test_processed_pairs_go_through_the_models(processor):
    inputs = processor(images=[picture(), picture(20, 90)], text=["what?", "this is red"])
    assert VlmoForQuestionAnswering(small())(**inputs).logits.shape == (2, ANSWERS)
    inputs = processor(images=[(picture(), picture(20, 90))] * 3, text=["red"] * 3)
    assert inputs["pixel_values"].shape == (3, 2, 3, SIZE, SIZE)
    assert VlmoForNlvr2(small(num_token_types=3))(**inputs).logits.shape == (3, 2)


def test_processor_comes_back_from_a_folder(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    again = VlmoProcessor.from_pretrained(tmp_path / "saved")
    before, after = (p(images=picture(), text="this?") for p in (processor, again))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert before.keys() == after.keys()


def test_processor_refuses_what_does_not_pair(processor):
    with pytest.raises(ValueError, match="neither images nor text"):
        processor()
    with pytest.raises(ValueError, match="do not pair"):
        processor(images=[picture()], text=["red", "this"])
    with pytest.raises(ValueError, match="two images for every text"):
        processor(images=[(picture(), picture()), (picture(),)], text=["red", "this"])
