"""SCALING.md: its numbers come from the recorded profiles, its files can be read, its formula says what it claims."""

import csv
import re
from math import sqrt

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from utils.files import ROOT

PAGE = (ROOT / "SCALING.md").read_text(encoding="utf-8")
KINDS = {"ddp": "MULTI_GPU", "zero3": "DEEPSPEED", "fsdp": "FSDP"}


def generating(file, step):
    """Share of the rollout in a recorded step."""
    rows = csv.DictReader((ROOT / "assets" / "runs" / file).read_text(encoding="utf-8").splitlines())
    parts = {row["part"]: float(row["seconds"]) for row in rows if row["step"] == step and "step" not in row["part"]}
    return parts["rollout"] / sum(parts.values())


def times(g, s, servers):
    """Of a step with one GPU's worth of GPUs: beside, and apart with that share of them serving."""
    return g / s + 1 - g, g / servers + (1 - g) / (1 - servers)


@pytest.mark.parametrize(("file", "step"), [("step_profile.csv", "after"), ("step_profile_qwen_bfloat16.csv", "real")])
def test_its_table_follows_from_the_recorded_profiles(file, step):
    g = generating(file, step)
    best = sqrt(g) / (sqrt(g) + sqrt(1 - g))
    limit = g / (g + 2 * sqrt(g * (1 - g)))
    row = next(line for line in PAGE.splitlines() if f"/{file}`" in line)
    assert row.endswith(f"| {g:.0%} | {best:.0%} | {limit:.2f} |")
    assert min(times(g, 1, k / 1000)[1] for k in range(1, 1000)) == pytest.approx(times(g, 1, best)[1], rel=1e-4)
    beside, apart = times(g, limit, best)
    assert beside == pytest.approx(apart)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_files(name):
    config = load_config_from_file(str(ROOT / "scaling" / f"{name}.yaml"))
    assert config.distributed_type == KINDS[name] and f"scaling/{name}.yaml" in PAGE


def test_what_it_names_is_there():
    for path in re.findall(r"`((?:tests|assets|scaling)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
