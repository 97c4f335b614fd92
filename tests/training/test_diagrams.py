"""The diagrams of notebooks 03 and 04 hold the numbers that they are given, each in its place."""

import pytest

from utils.plots import png
from utils.training.diagrams import GAP, lora_layer, reward_to_tokens, shifted_logits


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("length, gap", [(3, False), (8, False), (30, True)])
def test_each_token_has_its_probability_below_and_only_the_existing_are_kept(length, gap):
    tokens = [f"t{i}" for i in range(length)]
    figure = shifted_logits(["a", "b"], tokens, [i / 100 for i in range(length)], padding=2)
    shown = tokens[:4] + tokens[-4:] if gap else tokens
    placed = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    for token in shown:
        x, y = next(place for place, text in placed.items() if text == token)
        below = [text for (other, height), text in placed.items() if text and other == x and height < y]
        assert sorted(below) == sorted(["1", f"{int(token[1:]) / 100:.2f}"])
    assert (GAP in placed.values()) is gap
    assert texts(figure.axes[0]).count("0") == 2 == texts(figure.axes[0]).count("unused")
    arrows = [a for a in figure.axes[0].texts if getattr(a, "arrow_patch", None) and a.arrow_patch.get_arrowstyle()]
    assert len(arrows) == len(shown) + 2 + 1  # one for each score, and the bracket
    assert png(figure).startswith(b"\x89PNG")


def test_every_token_carries_the_advantage_of_its_completion():
    figure = reward_to_tokens([1.2, 0.2, 0.2], [1.15, -0.58, -0.57], [7, 4, 9])
    reward, advantage, tokens = figure.axes
    assert [bar.get_width() for bar in reward.patches] == [1.2, 0.2, 0.2] and "0.53" in reward.get_xlabel()
    assert [bar.get_width() for bar in advantage.patches] == [1.15, -0.58, -0.57]
    assert texts(advantage) == ["+1.15", "-0.58", "-0.57"]
    colours = [bar.get_facecolor() for bar in advantage.patches]
    for place, length in enumerate((7, 4, 9)):
        cells = [bar for bar in tokens.patches if round(bar.get_y() + bar.get_height() / 2) == place]
        assert len(cells) == length + 1 and {bar.get_facecolor() for bar in cells} == {colours[place]}
        assert cells[-1].get_x() == length - 1 and cells[-1].get_edgecolor() == (0, 0, 0, 1)
    assert png(figure).startswith(b"\x89PNG")


def test_a_dead_group_is_drawn_too():
    assert png(reward_to_tokens([1.2, 1.2], [0.0, 0.0], [7, 4])).startswith(b"\x89PNG")


@pytest.mark.parametrize("rows, columns", [(384, 128), (2048, 11008)])
def test_a_layer_is_drawn_to_scale_with_its_numbers(rows, columns):
    axes = lora_layer("some.layer", rows, columns, 16).axes[0]
    frozen, left, right = axes.patches
    assert frozen.get_height() / frozen.get_width() == pytest.approx(rows / columns)
    assert left.get_height() == frozen.get_height() and right.get_width() == frozen.get_width()
    said = " ".join(texts(axes))
    assert all(f"{count:,} numbers" in said for count in (rows * columns, 16 * rows, 16 * columns))
