"""The examples and the README's code run, with the bundled checkpoint, on the clip that ships with the source."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

import siammae

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def example(name: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_webcam_when_given_a_file_follows_the_box(tmp_path):
    source, out = EXAMPLES / "data" / "walkers.mp4", tmp_path / "out.mp4"
    box = ["--box", "180", "230", "70", "150"]
    example("webcam")(["--source", str(source), *box, "--output", str(out), "--frames", "4"])
    assert sum(1 for _ in siammae.read_frames(out)) == 4


def test_pretrain_tiny_trains_and_loads(tmp_path, capsys):
    example("pretrain_tiny")(str(tmp_path / "run"), "3")
    assert "features of two frames: (2, 96," in capsys.readouterr().out


@pytest.mark.parametrize("path", [*sorted(EXAMPLES.glob("*.py")), *sorted((EXAMPLES / "gallery").glob("*.py"))])
def test_example_is_short_and_listed(path):
    assert len(path.read_text().splitlines()) <= 70
    assert f"`{path.relative_to(EXAMPLES)}`" in (EXAMPLES / "README.md").read_text()


def test_every_public_name_is_in_the_reference_of_the_site_once():
    listed = re.findall(r"^   ([A-Za-z_&]+)$", (EXAMPLES / "site/api.rst").read_text(), flags=re.MULTILINE)
    here = [name for name in listed if hasattr(siammae, name)]
    assert sorted(here) == sorted(set(siammae.__all__) - {"__version__"})


def test_every_page_of_the_site_is_in_its_navigation():
    index = (EXAMPLES / "site/index.md").read_text()
    listed = {line for block in index.split("```{toctree}")[1:] for line in block.split("```")[0].splitlines()}
    pages = {path.stem for path in (EXAMPLES / "site").glob("*.*") if path.suffix in (".md", ".rst")} - {"index"}
    assert pages <= listed
    guides = {f"../{path.stem}" for path in EXAMPLES.glob("*.md")} - {"../README"}
    assert guides <= listed


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
