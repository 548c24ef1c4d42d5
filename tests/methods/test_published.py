"""Sizes at the published scale, against what their own code was counted to have."""

from pathlib import Path

import pytest

from hmmoe.methods.published import COUNTED, main, published_size, size_at


@pytest.mark.parametrize("name", COUNTED)
def test_adapters_of_the_rivals_are_as_large_as_published(name):
    assert published_size(name)["adapters"] / 1e6 == pytest.approx(COUNTED[name].adapters, rel=0.02)


@pytest.mark.parametrize("name", ["dg_sct", "hmmoe"])
def test_at_a_budget_they_meet_it_with_the_head_apart(name):
    size = size_at(name, 0.06)
    assert 0.055 < size["adapter_share"] <= 0.06
    head = size["head"] / (size["backbone"] + size["adapter"] + size["head"])
    assert size["trainable_share"] == pytest.approx(size["adapter_share"] * (1 - head) + head)


def test_other_methods_were_not_published_at_this_scale():
    with pytest.raises(ValueError, match="unknown method published at this scale 'lora'"):
        published_size("lora")


def test_the_tables_of_the_docs_are_what_is_printed(capsys):
    main(0.06)
    docs = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    tables = capsys.readouterr().out.split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert table.strip() in docs
