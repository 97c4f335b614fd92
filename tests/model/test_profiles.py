"""Profiles: the built-in ones hold together, and each impossible combination is refused with its mend."""

import pytest

from utils.model import profiles
from utils.model.profiles import PROFILES, get_profile, gpu_profile, pick_profile
from utils.setup import GPU_PROFILES

TINY = PROFILES["tiny"]


@pytest.mark.parametrize(
    "change, mend",
    [
        ({"micro_batch": 7}, "set micro_batch to a divisor"),
        ({"group_size": 1}, "at least 2, got 1"),
        ({"max_completion_tokens": 4_000}, "raise context_tokens"),
        ({"dtype": "int8"}, "float32, float16 or bfloat16"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": 0.0}, "must be positive"),
        ({"lr_power": -1.0}, "1 falls evenly"),
        ({"beta": -1.0}, "beta must not be negative"),
    ],
)
def test_a_combination_that_cannot_run_is_refused(change, mend):
    with pytest.raises(ValueError, match=mend):
        TINY.replace(**change)


def test_the_environment_variable_decides(monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "laptop")
    assert pick_profile() == "laptop"
    monkeypatch.setenv("GRPO_PROFILE", "t5")
    with pytest.raises(ValueError, match="tiny, laptop, t4, l4, a100.*'t5'"):
        pick_profile()


class Gpu:
    def __init__(self, gib, major, minor):
        self.total_memory, self.major, self.minor = gib * 2**30, major, minor


@pytest.mark.parametrize(
    "gpu, name",
    [
        (None, None),
        (Gpu(15, 7, 5), "t4"),
        (Gpu(22, 8, 9), "l4"),
        (Gpu(39.5, 8, 0), "a100"),
        (Gpu(80, 9, 0), "a100"),
        (Gpu(4, 8, 6), None),
        (Gpu(16, 6, 0), None),
    ],
)
def test_a_gpu_is_told_its_profile_and_not_given_it(monkeypatch, gpu, name):
    import torch

    monkeypatch.delenv("GRPO_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert gpu_profile() == name
    assert pick_profile() == "tiny"


def test_the_set_up_cell_knows_the_profiles_that_need_the_packages_for_a_gpu():
    assert set(GPU_PROFILES) == {name for name, profile in PROFILES.items() if profile.unsloth}


def test_a_gpu_profile_without_a_gpu_says_what_to_click(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="Change runtime type"):
        get_profile("t4").check_machine()


def test_bfloat16_on_a_t4_is_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    get_profile("t4").check_machine()
    with pytest.raises(RuntimeError, match="use the profile t4"):
        get_profile("l4").check_machine()


@pytest.mark.parametrize("there, dtype", [(True, "bfloat16"), (False, "float32")])
def test_without_a_gpu_bfloat16_is_for_processors_that_have_it(monkeypatch, there, dtype):
    """What only imitates it is slower than float32; a GPU profile is told by `check_machine` instead."""
    monkeypatch.setattr(profiles, "_has_bfloat16", lambda: there)
    assert get_profile("laptop") == PROFILES["laptop"].replace(dtype=dtype)
    assert get_profile("l4") is PROFILES["l4"] and get_profile("tiny") is TINY
