"""What holds for every engine test."""

import os


def pytest_configure(config):
    """Before torch is there; a run of all tests, which leaves these out, is not to be changed."""
    if config.option.markexpr == "engines":
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # bitsandbytes would compile for longer than the tests run
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # each process would import all of vLLM again
