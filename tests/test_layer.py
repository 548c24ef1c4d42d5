import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hmmoe.experts import EXPERTS, ChannelExperts
from hmmoe.layer import HMMoELayer
from reference import ORDER, hmmoe_reference

ALL = {"affine": 2, "conditioned_affine": 2, "channel_attention": 1, "cross_attention": 2}
STREAMS = {1: {"text": 7}, 2: {"image": 6, "text": 7}, 3: {"audio": 5, "image": 6, "text": 7}}


def make(widths, *, up=True, **options):
    """A float64 layer; with `up` its up products and router are far from their start: everything shows."""
    layer = HMMoELayer(widths, **{"rank": 3, "experts": ALL, **options}).double()
    if up:
        with torch.no_grad():
            for weight in [*layer.up.values(), *layer.router.parameters()]:
                weight.normal_(std=0.5)
            for group in layer.experts.values():
                for parameter in group.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def tokens(widths, batch=3, counts=(4, 6, 5)):
    return {
        m: torch.randn(batch, n, d, dtype=torch.float64, requires_grad=True)
        for (m, d), n in zip(widths.items(), counts, strict=False)
    }


def padding(states, batch=3):
    """Ragged lengths, a different one for every sample and stream."""
    return {
        m: torch.arange(x.shape[1])[None]
        < torch.tensor([x.shape[1] - (b + i) % 3 for b in range(batch)])[:, None]
        for i, (m, x) in enumerate(states.items())
    }


def assert_equal_to_reference(layer, states, masks=None, **options):
    """Outputs, losses and every gradient."""
    updates, routing = layer(states, masks, steps=options.get("steps", 1))
    wanted, weights, balance, z = hmmoe_reference(layer, states, masks, **options)
    for m in states:
        torch.testing.assert_close(updates[m], wanted[m], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(routing.weights[m], weights[m].detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(routing.balance, balance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(routing.z, z, rtol=1e-9, atol=1e-12)
    pull = {m: torch.randn_like(x) for m, x in states.items()}
    inputs = [*states.values(), *layer.parameters()]
    ours = sum((updates[m] * pull[m]).sum() for m in states) + routing.balance + 0.1 * routing.z
    theirs = sum((wanted[m] * pull[m]).sum() for m in states) + balance + 0.1 * z
    got = torch.autograd.grad(ours, inputs, allow_unused=True)
    want = torch.autograd.grad(theirs, inputs, allow_unused=True)
    for g, w in zip(got, want, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if g is None else g, torch.zeros_like(g) if w is None and g is not None else zero if w is
            None else w,
            rtol=1e-8, atol=1e-9,
        )  # fmt: skip


@pytest.mark.parametrize("router", ["sample", "token"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_equals_the_loop_per_expert(streams, router):
    widths = STREAMS[streams]
    assert_equal_to_reference(make(widths, router=router), tokens(widths), per_token=router == "token")


@pytest.mark.parametrize("router", ["sample", "token"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_equals_the_loop_per_expert_with_padding(streams, router):
    states = tokens(STREAMS[streams])
    layer = make(STREAMS[streams], router=router)
    assert_equal_to_reference(layer, states, padding(states), per_token=router == "token")


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_equals_the_loop_per_expert_with_a_stream_missing_in_a_sample(streams):
    states = tokens(STREAMS[streams])
    masks = padding(states)
    masks["text" if streams == 1 else "image"][1] = False
    assert_equal_to_reference(make(STREAMS[streams]), states, masks)


@pytest.mark.parametrize("streams", [2, 3])
def test_equals_the_loop_per_expert_with_a_stream_missing_in_the_batch(streams):
    states = tokens(STREAMS[streams])
    del states["image"]
    assert_equal_to_reference(make(STREAMS[streams]), states, padding(states))


@pytest.mark.parametrize("router", ["sample", "token"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_the_loop_per_expert_with_top_k(k, router):
    states = tokens(STREAMS[3])
    masks = padding(states)
    masks["text"][0] = False
    layer = make(STREAMS[3], top_k=k, router=router)
    assert_equal_to_reference(layer, states, masks, top_k=k, per_token=router == "token")


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_loop_per_expert_through_latent_tokens(masked):
    states = tokens(STREAMS[2], counts=(9, 11))
    masks = padding(states) if masked else None
    layer = make(STREAMS[2], latents=3, exact_tokens=5)
    assert_equal_to_reference(layer, states, masks, latents=3, exact_tokens=5)


def test_equals_the_loop_per_expert_when_a_long_stream_is_missing_in_a_sample():
    states = tokens(STREAMS[3], counts=(9, 11, 8))
    masks = padding(states)
    masks["image"][1] = False
    masks["audio"][2, :8] = False  # fewer real tokens than latents
    masks["text"][0, 2:5] = False  # and a gap
    layer = make(STREAMS[3], latents=4, exact_tokens=5)
    assert_equal_to_reference(layer, states, masks, latents=4, exact_tokens=5)


@pytest.mark.parametrize("steps", [1, 2])
def test_equals_the_loop_per_expert_with_the_context_of_the_whole_sample(steps):
    states = tokens(STREAMS[3], batch=4)
    masks = padding(states, batch=4)
    masks["text"][3] = False
    assert_equal_to_reference(make(STREAMS[3], sample_context=True), states, masks, steps=steps)


def test_dropout_is_of_training_only():
    layer, states = make(STREAMS[2], dropout=0.5), tokens(STREAMS[2])
    trained = [layer(states)[0]["text"] for _ in range(2)]
    assert not torch.equal(*trained)
    layer.eval()
    assert torch.equal(layer(states)[0]["text"], layer(states)[0]["text"])


@pytest.mark.parametrize("kind", ORDER)
def test_every_kind_of_expert_passes_gradcheck(kind):
    widths = {"a": 2, "v": 3}
    layer = make(widths, rank=2, experts={kind: 2}, latents=2, exact_tokens=2)
    a, v = (torch.randn(2, n, d, dtype=torch.float64, requires_grad=True) for n, d in ((3, 2), (4, 3)))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    parameters = [p for p in layer.parameters() if p.requires_grad]

    def run(a, v, *_):
        updates, routing = layer({"a": a, "v": v}, {"a": mask})
        return updates["a"], updates["v"], routing.balance, routing.z

    assert torch.autograd.gradcheck(run, (a, v, *parameters))


@pytest.mark.parametrize(
    "options", [{}, {"router": "token"}, {"top_k": 2}, {"latents": 2, "exact_tokens": 2}], ids=str
)
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_all_experts_together_pass_gradcheck_with_padding_and_a_missing_stream(streams, options):
    widths = dict(list({"a": 2, "t": 2, "v": 3}.items())[:streams])
    layer = make(widths, rank=1, experts=dict.fromkeys(ORDER, 1), **options)
    states = {m: torch.randn(2, 3, d, dtype=torch.float64, requires_grad=True) for m, d in widths.items()}
    masks = {m: torch.tensor([[True, True, False], [True, True, True]]) for m in widths}
    masks["a"][1] = streams == 1  # a lone stream that is missing has no gradient at all
    parameters = list(layer.parameters())

    def run(*_):
        updates, routing = layer(states, masks)
        return *updates.values(), routing.balance, routing.z

    assert torch.autograd.gradcheck(run, (*states.values(), *parameters), fast_mode=True)


@pytest.mark.parametrize("router", ["sample", "token"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_is_the_identity_at_the_start_exactly(streams, router):
    layer = HMMoELayer(STREAMS[streams], rank=3, experts=ALL, router=router)
    updates, _ = layer({m: x.float() for m, x in tokens(STREAMS[streams]).items()})
    assert all((u == 0).all() for u in updates.values())


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_a_uniform_layer_is_one_whose_router_is_flat(streams):
    states = tokens(STREAMS[streams])
    masks = padding(states)
    masks = {
        m: mask & (torch.arange(3) != i)[:, None] for i, (m, mask) in enumerate(masks.items())
    }  # missing
    routed, even = make(STREAMS[streams]), make(STREAMS[streams], router="uniform")
    with torch.no_grad():
        for parameter in routed.router.parameters():
            parameter.zero_()
    even.load_state_dict({k: v for k, v in routed.state_dict().items() if not k.startswith("router.")})
    (expected, flat), (updates, routing) = routed(states, masks), even(states, masks)
    for m in states:
        torch.testing.assert_close(updates[m], expected[m])
        torch.testing.assert_close(routing.weights[m], flat.weights[m])
    assert routing.balance == routing.z == 0
    assert not list(even.router.parameters())


def test_the_up_product_may_start_elsewhere():
    layer = HMMoELayer({"a": 300}, rank=8, experts=ALL, up_std=0.02)
    assert layer.up["a"].std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("options", [{}, {"router": "token"}, {"latents": 2, "exact_tokens": 2}])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_every_parameter_has_had_a_gradient_after_two_steps(streams, options):
    layer = make(STREAMS[streams], up=False, **options)
    states = tokens(STREAMS[streams], batch=8)
    target = {m: torch.randn_like(x) for m, x in states.items()}
    seen = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in layer.named_parameters()}
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    for _ in range(2):
        updates, routing = layer(states)
        loss = (
            sum(((states[m] + updates[m] - target[m]) ** 2).mean() for m in states) + 0.01 * routing.balance
        )
        optimiser.zero_grad()
        loss.backward()
        for name, p in layer.named_parameters():
            seen[name] |= p.grad != 0
        optimiser.step()
    idle = [name for name, hit in seen.items() if not hit.any()]
    assert not idle


@pytest.mark.parametrize(("counts", "exact_tokens"), [((4, 6), 50), ((9, 11), 5), ((4, 6), 7)])
def test_padding_changes_nothing(counts, exact_tokens):
    states = tokens(STREAMS[2], counts=counts)
    layer = make(STREAMS[2], latents=3, exact_tokens=exact_tokens)
    longer = {m: torch.cat([x, torch.randn(3, 4, x.shape[-1], dtype=x.dtype)], 1) for m, x in states.items()}
    masks = {m: torch.arange(x.shape[1] + 4).expand(3, -1) < x.shape[1] for m, x in states.items()}
    short, _ = layer(states)
    padded, _ = layer(longer, masks)
    for m, x in states.items():
        torch.testing.assert_close(padded[m][:, : x.shape[1]], short[m])
        assert (padded[m][:, x.shape[1] :] == 0).all()


def test_a_missing_stream_gives_its_experts_no_weight_and_the_rest_all_of_it():
    layer = make(STREAMS[2])
    states = tokens(STREAMS[2])
    masks = {"image": torch.tensor([[True] * 4, [False] * 4, [True] * 4])}
    _, routing = layer(states, masks)
    weights = routing.weights["text"]
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))
    assert (weights[1, ALL["affine"] :] == 0).all()
    assert (weights[0] > 0).all()


def test_what_is_missing_never_reaches_the_others():
    layer = make(STREAMS[2])
    states = {m: x.detach() for m, x in tokens(STREAMS[2]).items()}
    masks = {"image": torch.tensor([[True] * 4, [False] * 4, [True] * 4])}
    before, _ = layer(states, masks)
    after, _ = layer({**states, "image": torch.where(masks["image"][..., None], states["image"], 1e4)}, masks)
    torch.testing.assert_close(before["text"], after["text"], rtol=0, atol=0)


def test_modality_dropout_hides_streams_in_training_only():
    layer = make(STREAMS[2], modality_dropout=0.5)
    states = tokens(STREAMS[2], batch=64)
    _, trained = layer(states)
    hidden = (trained.weights["text"][:, ALL["affine"] :] == 0).all(-1)
    assert 16 < hidden.sum() < 48
    _, evaluated = layer.eval()(states)
    assert (evaluated.weights["text"] > 0).all()


def test_top_k_keeps_k_weights_that_sum_to_one():
    layer = make(STREAMS[2], top_k=2)
    _, routing = layer(tokens(STREAMS[2]))
    for weights in routing.weights.values():
        assert ((weights > 0).sum(-1) == 2).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))


def test_top_k_leaves_no_parameter_without_a_gradient_for_ddp():
    layer = make(STREAMS[2], top_k=1)
    updates, _ = layer(tokens(STREAMS[2], batch=1))
    sum(u.sum() for u in updates.values()).backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_no_weight_depends_on_the_number_of_tokens():
    layer = make(STREAMS[2], latents=2, exact_tokens=4)
    for counts in ((1, 1), (3, 2), (40, 70)):
        updates, _ = layer(tokens(STREAMS[2], counts=counts))
        assert [u.shape[1] for u in updates.values()] == list(counts)


@pytest.mark.parametrize("masked", [False, True])
def test_work_is_linear_in_tokens_beyond_the_threshold(masked):
    layer = make(STREAMS[3], latents=2, exact_tokens=8)

    def work(n):
        states = tokens(STREAMS[3], counts=(n, n, n))
        masks = {m: torch.ones(3, n, dtype=torch.bool) for m in states} if masked else None
        with FlopCounterMode(display=False) as counter:
            updates, _ = layer(states, masks)
            sum(u.sum() for u in updates.values()).backward()
        return counter.get_total_flops()

    few, some, many = work(16), work(32), work(64)
    assert many - some == 2 * (some - few)


class NoWaiting(TorchDispatchMode):
    """Fails at whatever needs a tensor's values on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal")
        assert name != "index" or not any(i is not None and i.dtype == torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"router": "token"}, {"router": "uniform"}, {"top_k": 2}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_that_is_standardised_never_waits_for_the_device(training, options):
    layer = make(STREAMS[3], modality_dropout=0.1, sample_context=True, **options)
    states = tokens(STREAMS[3], batch=4, counts=(70, 70, 70))
    masks = padding(states, batch=4)
    layer(states, masks, steps=2)  # measures its standard, once
    layer.train(training)
    for given in (states, {m: states[m] for m in ("audio", "text")}):
        with NoWaiting():
            updates, routing = layer(given, {m: masks[m] for m in given}, steps=2)
            (sum(u.sum() for u in updates.values()) + routing.balance + routing.z).backward()
    layer.train().standardised = False
    with pytest.raises(AssertionError), NoWaiting():
        layer(states, masks, steps=2)


def test_the_order_of_streams_and_experts_does_not_matter():
    states = tokens({"image": 6, "text": 6})
    layer = make({"image": 6, "text": 6})
    turned = HMMoELayer({"text": 6, "image": 6}, rank=3, experts=dict(reversed(ALL.items()))).double()
    turned.load_state_dict(layer.state_dict())
    first, _ = layer(states)
    second, _ = turned(dict(reversed(states.items())))
    for m in states:
        torch.testing.assert_close(first[m], second[m], rtol=0, atol=0)


def test_copies_and_pickles():
    layer, states = make(STREAMS[2]), tokens(STREAMS[2])
    wanted, _ = layer(states)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        got, _ = twin(states)
        assert all((got[m] == wanted[m]).all() for m in states)


def test_runs_under_bf16_autocast_and_keeps_the_streams_dtype():
    layer = make(STREAMS[2]).float()
    states = {m: x.bfloat16() for m, x in tokens(STREAMS[2]).items()}
    with torch.autocast("cpu", torch.bfloat16):
        updates, routing = layer(states)
    assert {u.dtype for u in updates.values()} == {torch.bfloat16}
    assert {w.dtype for w in routing.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": {"afine": 2}}, "unknown expert 'afine', did you mean 'affine'"),
        ({"experts": {"affine": -1}}, r"experts\['affine'\] must be a whole number"),
        ({"experts": {}}, "experts must name at least one"),
        ({"experts": ["affine"]}, r"experts must be kind -> number, e.g. \{'affine': 2\}, got \['affine'\]"),
        ({"router": "tokens"}, "unknown router 'tokens', did you mean 'token'"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"top_k": 9}, "top_k must be between 1 and the 7 experts"),
        ({"top_k": 2, "router": "uniform"}, "top_k=2 needs a router that ranks experts"),
    ],
)
def test_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(STREAMS[2], **options)


def test_refuses_inputs_that_do_not_fit():
    layer, states = make(STREAMS[2]), tokens(STREAMS[2])
    with pytest.raises(ValueError, match="unknown stream 'txt', did you mean 'text'"):
        layer({"txt": states["text"]})
    with pytest.raises(ValueError, match=r"same batch size, got \{'image': 2, 'text': 3\}"):
        layer({"image": states["image"][:2], "text": states["text"]})
    with pytest.raises(ValueError, match=r"stream 'image' must be \(batch, tokens, 6\)"):
        layer({"image": states["text"], "text": states["text"]})
    with pytest.raises(ValueError, match="mask of stream 'text' must be bool"):
        layer(states, {"text": torch.ones(3, 6)})
    with pytest.raises(ValueError, match="holds no stream"):
        layer({})
    with pytest.raises(ValueError, match="3 rows are not a whole number of samples of 2 steps"):
        make(STREAMS[2], sample_context=True)(states, steps=2)


def test_the_first_training_batch_sets_the_standard_and_nothing_after_it():
    layer = make(STREAMS[2])
    states = {m: (50 + 3 * x).detach() for m, x in tokens(STREAMS[2]).items()}
    masks = padding(states)
    layer.eval()(states, masks)
    assert all(down.count == 0 for down in layer.down.values())
    layer.train()(states, masks)
    for m, down in layer.down.items():
        real = states[m][masks[m]]
        sigma = real.var(0, correction=0).sqrt()
        assert down.count == len(real)
        torch.testing.assert_close(down.mean, real.mean(0))
        torch.testing.assert_close(down.scale, 1 / (sigma + 0.1 * sigma.median() + 1e-6))
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    layer({m: 7 * x for m, x in states.items()}, masks)
    assert all(torch.equal(v, kept[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("router", ["sample", "token"])
def test_half_the_scale_gives_half_the_updates(router):
    states, updates = tokens(STREAMS[2]), []
    for scale in (1.0, 0.5):
        torch.manual_seed(0)
        updates.append(make(STREAMS[2], scale=scale, router=router)(states)[0])
    for m, update in updates[0].items():
        assert update.abs().max() > 0.1
        torch.testing.assert_close(updates[1][m], update / 2)


def test_a_stream_missing_from_the_first_batch_sets_its_standard_when_it_comes():
    layer = make(STREAMS[2])
    states = tokens(STREAMS[2])
    layer({"text": states["text"]})
    assert layer.down["text"].count == 18
    assert layer.down["image"].count == 0
    mean = layer.down["text"].mean.clone()
    layer({m: x + 1 for m, x in states.items()})
    assert layer.down["image"].count == 12
    assert torch.equal(layer.down["text"].mean, mean)


def test_a_loaded_standard_is_not_measured_again():
    layer, states = make(STREAMS[2]), tokens(STREAMS[2])
    wanted, _ = layer(states)
    twin = make(STREAMS[2])
    twin.load_state_dict(layer.state_dict())
    got, _ = twin(states)
    twin({m: 5 * x for m, x in states.items()})
    assert all(torch.equal(got[m], wanted[m]) for m in states)
    assert torch.equal(twin.down["text"].mean, layer.down["text"].mean)


@pytest.mark.parametrize("kind", sorted(EXPERTS))
def test_every_kind_starts_near_the_uni_modal_expert(kind):
    torch.manual_seed(0)
    expert = EXPERTS[kind](2, 16, context=64)
    own, others, context = torch.randn(8, 20, 32), torch.randn(8, 30, 32), torch.randn(8, 64)
    alone = torch.nn.functional.silu(own)
    if isinstance(expert, ChannelExperts):
        scale, shift = expert(context)
        y = alone * scale.expand(8, -1)[:, None] + (0 if shift is None else shift.expand(8, -1)[:, None])
    else:
        y = alone + expert(own, [others], [None])
    assert (y - alone).std() < 0.3 * alone.std()
    assert expert.reads_others == (not torch.equal(y, alone))
