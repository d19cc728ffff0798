"""The examples in the docstrings: each runs and gives what it says."""

import doctest
import inspect

import pytest

import siammae

# What needs a data set that cannot ship, starts processes, or is no more than what a function returns.
WITHOUT = {
    "CheckpointError DatasetError KernelUnavailableError VideoReadError WorkerError",
    "evaluate_davis evaluate_jhmdb evaluate_vip score_davis score_jhmdb score_vip compare sweep",
    "extract_corpus FeatureDataset",
    "Comparison ConversionReport EvaluationResult FrameKeypoints FrameLabels FrameMasks Keypoints KnownModel",
    "PretrainOutput Reconstruction StoredVideo Sweep TopK VideoKeypoints VideoMasks VideoObject Visibility",
}
PUBLIC = set(siammae.__all__) - {"__version__"}


def examples():
    """Return the examples of all public names, those of methods too."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [finder.find(getattr(siammae, name), name, module=False, globs={}) for name in sorted(PUBLIC)]
    return [test for tests in found for test in tests if test.examples]


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_example_of_a_docstring_gives_what_it_says(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(verbose=False)
    report = []
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


def test_every_public_name_has_an_example_but_those_that_cannot():
    without = {name for name in PUBLIC if ">>> " not in (inspect.getdoc(getattr(siammae, name)) or "")}
    assert without == set(" ".join(WITHOUT).split())
