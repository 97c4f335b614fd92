"""What all pictures share: their bytes, and how a curve is smoothed."""

import io

import numpy as np
import pytest
from PIL import Image

from utils.plots import bars, png, rewards_and_advantages, smooth


def test_a_picture_has_256_colours_and_the_same_bytes_each_time_and_looks_the_same():
    one, other, third = (
        bars({"base": [3, 5, 2], "trained": [4, 9, 1]}, ["a", "b", "c"], "a title", "count") for _ in range(3)
    )
    small, whole = png(one), io.BytesIO()
    third.savefig(whole, format="png", dpi=110, bbox_inches="tight")
    assert small == png(other)
    assert len(small) < len(whole.getvalue()) / 2
    palette, plain = Image.open(io.BytesIO(small)), np.asarray(Image.open(whole).convert("RGB"), dtype=float)
    assert palette.mode == "P" and not palette.info.keys() & {"Software", "Creation Time"}
    distance = abs(np.asarray(palette.convert("RGB")) - plain).max(axis=2)
    assert distance.max() < 16 and (distance > 2).mean() < 0.001


@pytest.mark.parametrize("steps, window", [(40, 9), (160, 21)])
def test_a_curve_is_smoothed_over_an_eighth_of_its_run_and_nine_steps_at_least(steps, window):
    spike = [0.0] * steps
    spike[steps // 2] = 1.0
    assert [value for value in smooth(spike) if value] == [1 / window] * window


def test_rewards_stand_beside_their_advantages_and_a_dead_group_is_named():
    groups = {"alive": ([1.0, 0.0], [0.7, -0.7]), "dead": ([0.2, 0.2], [0.0, 0.0])}
    panels = rewards_and_advantages(groups).axes
    drawn = [[bar.get_height() for bar in axes.patches] for axes in panels]
    assert drawn == [[1.0, 0.0, 0.7, -0.7], [0.2, 0.2, 0.0, 0.0]]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert ["dead:" in " ".join(text.get_text() for text in axes.texts) for axes in panels] == [False, True]
