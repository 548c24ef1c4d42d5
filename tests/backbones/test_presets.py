"""Pairs of towers as papers use them: a budget lands in 5-8 % on every one, without weights or memory."""

import pytest

from hmmoe.backbones.presets import PRESETS, main, sizes


@pytest.mark.parametrize("name", PRESETS)
def test_a_budget_of_six_per_cent_lands_between_five_and_six(name):
    row = sizes(name, 0.06)
    assert 0.05 < row["share"] <= 0.06
    assert row["points"] in ((12,) if name == "swinv2-l+hts-at" else (12, 24))
    added = row["adapter"] + row["router"]
    assert row["share"] == pytest.approx(added / (row["backbone"] + added))


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'clip-b23', did you mean 'clip-b32'"):
        sizes("clip-b23")


def test_the_table_has_a_line_for_each(capsys, monkeypatch):
    monkeypatch.setattr("hmmoe.backbones.presets.PRESETS", {"clip-b32": PRESETS["clip-b32"]})
    main(0.06)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["clip-b32", "12"]
