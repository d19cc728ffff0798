"""What the server does without, so that its memory stays below 1 GB; and the bounds that are its own."""

import subprocess
import sys

import numpy as np

from siammae.annotate import pictures
from siammae.annotate.pictures import Pictures
from siammae.frames.random_access import FrameAccess
from tests.videos import encode, numbered

PROGRAM = """
import sys
from siammae.annotate.memory import give_memory_back, trim
from siammae.cli.own_process import without_compiler
give_memory_back()
with without_compiler():
    import siammae
    siammae.SiamMAE.from_pretrained()
trim()
print([name for name in ("torch._dynamo", "torch._dynamo.utils", "triton", "sympy") if name in sys.modules])
import torch
print(torch._dynamo.disable(len) is not len, torch.compiler.is_compiling())
with without_compiler():
    from torch._dynamo import config
print(config.cache_size_limit > 0)
"""


def test_model_is_loaded_without_the_compiler_which_is_there_for_who_wants_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True False", "True"]


def test_pictures_are_kept_up_to_a_number_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CACHE_BYTES", 20_000)
    path = encode(tmp_path / "a.mp4", numbered(40), options={"g": "20"})
    access = FrameAccess(path, behind=pictures.BEHIND)
    shown = Pictures(access)
    try:
        for number in np.random.default_rng(0).integers(0, 40, 60).tolist():
            size = len(shown.jpeg(number))
            assert sum(map(len, shown._kept.values())) <= max(20_000, size) + size
            assert len(access._source._kept) <= pictures.BEHIND + 1
    finally:
        shown.close()
        access.close()
