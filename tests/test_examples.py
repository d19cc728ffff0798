"""The examples and the README's code run, with the bundled checkpoint, on the clip that ships with the source."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siammae

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def example(name: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_extract_features_writes_a_picture(tmp_path, capsys):
    example("extract_features")(output=str(tmp_path / "features.png"))
    with Image.open(tmp_path / "features.png") as picture:
        assert picture.width > 600
    assert "features (5, 192, 30, 35)" in capsys.readouterr().out


def test_follow_masks_writes_masks_that_stay_on_the_walkers(tmp_path):
    example("follow_masks")(output=str(tmp_path), stop=6)
    masks = [siammae.read_mask(path) for path in sorted(tmp_path.glob("*.png"))]
    assert len(masks) == 6
    areas = np.array([[(mask == i).sum() for i in (1, 2)] for mask in masks])
    assert (areas[-1] > 0.5 * areas[0]).all()
    assert (areas[-1] < 1.5 * areas[0]).all()


def test_follow_keypoints_writes_a_video(tmp_path, capsys):
    example("follow_keypoints")(output=str(tmp_path / "out.mp4"), stop=6)
    assert sum(1 for _ in siammae.read_frames(tmp_path / "out.mp4")) == 6
    assert "head_1" in capsys.readouterr().out


def test_webcam_when_given_a_file_follows_the_box(tmp_path):
    source, out = EXAMPLES / "data" / "walkers.mp4", tmp_path / "out.mp4"
    box = ["--box", "180", "230", "70", "150"]
    example("webcam")(["--source", str(source), *box, "--output", str(out), "--frames", "4"])
    assert sum(1 for _ in siammae.read_frames(out)) == 4


def test_pretrain_tiny_trains_and_loads(tmp_path, capsys):
    example("pretrain_tiny")(str(tmp_path / "run"), "3")
    assert "features of two frames: (2, 96," in capsys.readouterr().out


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_example_is_short_and_listed(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 70
    assert f"`{name}.py`" in (EXAMPLES / "README.md").read_text()


def test_readme_python_runs(tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES / "data", tmp_path / "examples" / "data")
    monkeypatch.chdir(tmp_path)
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    blocks = [block for block in blocks if '"timm/' not in block.split("```")[0]]  # these download weights
    assert blocks
    for block in blocks:
        # The clip has 50 frames; ten show that the code runs.
        code = block.split("```")[0].replace('propagate_masks("examples/data/walkers.mp4"', "propagate_masks(short")
        names: dict[str, object] = {"short": list(siammae.read_frames("examples/data/walkers.mp4", stop=10))}
        exec(compile(code, "README.md", "exec"), names)
    assert len(list((tmp_path / "masks").glob("*.png"))) == 10
    assert names["labels"].shape == (384, 448)


def test_readme_commands_are_those_of_the_program(capsys):
    from siammae.cli import main

    text = (ROOT / "README.md").read_text()
    shell = "\n".join(block.split("```")[0] for block in text.split("```bash\n")[1:])
    commands = {line.split()[1] for line in shell.splitlines() if line.startswith("siammae ")}
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert commands
    assert all(f"\n    {command}" in shown for command in commands)


def test_readme_test_command_is_what_the_checks_run():
    readme, checks = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[dev]"\npytest -n auto\n' in readme
    assert 'pip install -q -e ".[dev]"\n' in checks
    assert "\npytest -n auto\n" in checks


def test_readme_pictures_and_links_exist():
    text = (ROOT / "README.md").read_text()
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    assert targets
    for target in (target for target in targets if not target.startswith("http")):
        path, _, heading = target.partition("#")
        assert (ROOT / path).exists(), target
        if heading:
            lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
            assert heading in [line.lstrip("# ").lower().replace(" ", "-") for line in lines if line.startswith("#")]
