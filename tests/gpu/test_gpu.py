"""On an NVIDIA GPU: the small shape in 4 bit through each engine, the meter's bytes, the embedded model in float32."""

import importlib.util
import json

import pytest
import torch

from tests.gpu import prove, report
from tests.gpu.stand_in import random_model
from utils.training.memory import GIB

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU was found: not measured here")
pytestmark = [NO_GPU, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model("small", folder, "cuda")
    return folder


@pytest.mark.parametrize("engine", prove.ENGINES)
def test_grpo_steps_of_the_t4_profile(engine, model, tmp_path):
    needed = {"unsloth": "unsloth", "transformers": "bitsandbytes"}[engine]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    path = tmp_path / "parts" / f"small-{engine}.json"
    prove.prove_engine("small", engine, model, 8, path, prove.ROOM)
    part = json.loads(path.read_text())
    assert "error" not in part, part["error"]
    assert part["profile"]["unsloth"] and part["profile"]["dtype"] == "float16"
    assert report.learning(part)["sound"], report.learning(part)
    found = report.fit(part)
    assert all(measured is not None and measured >= 0 for measured, _ in found["parts"].values()), found
    assert found["parts"]["weights"][0] > 0 and found["peak"][0] < prove.ROOM and found["goal_met"]


def test_the_gpu_is_made_to_look_small():
    with prove.only(2 * GIB) as used:
        free, total = torch.cuda.mem_get_info()
        assert free <= 2 * GIB and used == total - free
    assert torch.cuda.mem_get_info()[0] > free or total <= 2 * GIB


def test_the_embedded_model_trains_on_the_gpu_in_float32(tmp_path):
    summary = prove.prove_tiny(tmp_path / "tiny.json", limit=64, steps=2)
    assert summary["device"] == "cuda:0" and summary["engine"] == "transformers" and summary["train_steps"] == 2
    assert summary["base"]["strict"]["rate"] > 0.4, "the embedded model solves more than half of the test split"
