"""What holds for every engine test."""

import os

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # bitsandbytes would compile for longer than these tests run
