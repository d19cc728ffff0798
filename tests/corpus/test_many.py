"""Many videos: what is missing is done, once; what is broken is named; engines give the same bytes."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import siammae
from siammae.corpus.folders import Share
from siammae.corpus.manifest import FAILED, MANIFEST, PROGRESS, Progress, Record, read_manifest, write_manifest
from siammae.corpus.merging import merge_shares
from siammae.corpus.models import ModelName
from siammae.errors import CheckpointError, DatasetError
from siammae.features import PixelExtractor
from siammae.frames import write_image
from siammae.pretraining.data.sharding import ShardSettings, write_shards
from tests.corpus.toy import Dies, DiesOnce, Slow, make_fatal, make_videos, results
from tests.helpers import moving_square, tiny_model, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("corpus") / "videos")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(tiny_model().save_pretrained(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def plain(videos, weights, tmp_path_factory):
    """What a plain loop makes of all videos."""
    out = tmp_path_factory.mktemp("plain") / "out"
    report = extract(videos, out, model=ModelName(weights))
    assert (report.made, report.found, report.failed, report.frames) == (4, 0, {}, 6 + 7 + 8 + 9)
    return out


def extract(source, out, *, model=None, workers=1, **options):
    return siammae.extract_corpus(source, out, model=model or PixelExtractor(8), workers=workers, **options)


def without_seconds(folder):
    return [
        {name: getattr(record, name) for name in Record.__dataclass_fields__ if name != "seconds"}
        for record in read_manifest(folder / MANIFEST)
    ]


def test_manifest_tells_all_of_every_video(videos, plain, weights):
    model = siammae.SiamMAE.from_pretrained(weights)
    records = read_manifest(plain / MANIFEST)
    assert [record.path for record in records] == [str(videos / f"v{seed}.mp4") for seed in range(4)]
    for seed, record in enumerate(records):
        assert (record.status, record.error, record.frames, record.rate) == ("done", None, 6 + seed, 25.0)
        assert (record.height, record.width, record.channels, record.rows, record.columns) == (32, 48, 32, 4, 6)
        assert record.bytes == (videos / f"v{seed}.mp4").stat().st_size
        assert (record.model, record.dtype) == (weights, "float32")
        assert len(record.weights) == len(record.checksum) == 64
        assert record.file == f"features/{record.id[:2]}/{record.id}.safetensors"
        assert json.loads(record.rules)["layer"] == -1
        assert record.seconds > 0
        stored = siammae.open_features(plain / record.file)
        expected = model.extract(record.path, batch_size=4)
        np.testing.assert_allclose(stored[:], expected.numpy(), atol=1e-5)
    assert {path.name for path in plain.iterdir()} == {MANIFEST, "settings.json", "features"}


def test_workers_give_the_bytes_of_a_plain_loop(videos, plain, weights, tmp_path):
    report = extract(videos, tmp_path / "out", model=ModelName(weights), workers=2)
    assert report.made == 4
    assert results(tmp_path / "out") == results(plain)
    assert without_seconds(tmp_path / "out") == without_seconds(plain)


def test_second_run_does_nothing_twice_and_settings_do_not_mix(videos, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    model = Slow(str(log), seconds=0)
    extract(videos, out, model=model, short_side=24)
    calls = log.stat().st_size
    before = {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*")}
    report = extract(videos, out, model=model, short_side=24)
    assert (report.made, report.found) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*")} == before
    assert log.stat().st_size - calls <= 4  # a frame of each for the size that is told
    with pytest.raises(ValueError, match=r"results of other settings \(rules\.short_side\), and settings do not mix"):
        extract(videos, out, model=model, short_side=16)
    with pytest.raises(ValueError, match=r"other settings \(model\.network\.class, model\.network\.config"):
        extract(videos, out, model=tiny_model(), short_side=24)
    assert extract(videos, out, model=model, short_side=16, overwrite=True).made == 4
    assert siammae.open_features(out)[0].shape[1:] == (192, 2, 3)
    assert len(results(out)) == 4


def test_moved_videos_are_recognised_and_changed_ones_are_not(videos, tmp_path):
    here, out = tmp_path / "here", tmp_path / "out"
    shutil.copytree(videos, here)
    extract(here, out)
    here.rename(tmp_path / "there")
    (tmp_path / "there" / "v0.mp4").rename(tmp_path / "there" / "named.mp4")
    report = extract(tmp_path / "there", out)
    assert (report.made, report.found) == (0, 4)
    paths = [Path(record.path).name for record in read_manifest(out / MANIFEST)]
    assert paths == ["named.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    shutil.copy(videos / "v0.mp4", tmp_path / "there" / "v1.mp4")
    report = extract(tmp_path / "there", out)
    assert (report.made, report.found) == (0, 4)
    one, two = (record for record in read_manifest(out / MANIFEST) if Path(record.path).name in ("named.mp4", "v1.mp4"))
    assert one.id == two.id
    write_video(tmp_path / "there" / "v1.mp4", moving_square(5, (32, 48), 12, (4, 4), seed=9)[0])
    assert extract(tmp_path / "there", out).made == 1


def test_another_source_adds_rows_to_the_same_folder(videos, tmp_path):
    extract(videos / "v0.mp4", tmp_path / "out")
    report = extract(videos / "v1.mp4", tmp_path / "out")
    assert report.made == 1
    assert [Path(path).name for path in (r.path for r in read_manifest(tmp_path / "out" / MANIFEST))] == [
        "v0.mp4",
        "v1.mp4",
    ]


def test_broken_videos_are_named_and_stop_nothing(videos, tmp_path):
    here = shutil.copytree(videos, tmp_path / "here")
    (here / "text.mp4").write_text("no video")
    whole = (here / "v3.mp4").read_bytes()
    (here / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (here / "list.txt").write_text(
        "".join(f"{name}\n" for name in ("v0.mp4", "text.mp4", "cut.mp4", "gone.mp4", "v1.mp4"))
    )
    report = extract(here / "list.txt", tmp_path / "out", max_failed=0.7)
    assert report.made == 2
    reasons = {Path(path).name: reason for path, reason in report.failed.items()}
    assert set(reasons) == {"text.mp4", "cut.mp4", "gone.mp4"}
    assert "cannot be read as a video" in reasons["text.mp4"]
    assert "No such file" in reasons["gone.mp4"]
    failed = [record for record in read_manifest(tmp_path / "out" / MANIFEST) if record.status == FAILED]
    assert {Path(record.path).name: record.error for record in failed} == reasons
    with pytest.raises(KeyError, match=r"'text\.mp4' has no features: .*cannot be read as a video"):
        siammae.open_features(tmp_path / "out")["text.mp4"]
    # Once repaired, they are what is missing.
    shutil.copy(videos / "v2.mp4", here / "text.mp4")
    report = extract(here / "list.txt", tmp_path / "out", max_failed=0.7)
    assert (report.made, report.found, len(report.failed)) == (1, 2, 2)


def test_too_many_broken_videos_stop_the_run_and_what_is_done_stays(videos, tmp_path):
    here = shutil.copytree(videos, tmp_path / "here")
    for index in range(3):
        (here / f"w{index}.mp4").write_text("no video")
    with pytest.raises(DatasetError, match=r"2 of 7 videos cannot be read, more than the share max_failed=0\.1 allows"):
        extract(here, tmp_path / "out")
    assert len(results(tmp_path / "out")) == 4
    report = extract(here, tmp_path / "out", max_failed=0.5)
    assert (report.made, report.found, len(report.failed)) == (0, 4, 3)


def test_a_video_that_kills_its_process_is_named_and_the_rest_is_done(videos, tmp_path):
    here = make_fatal(shutil.copytree(videos, tmp_path / "here"))
    report = extract(here, tmp_path / "out", model=Dies(8), workers=2)
    assert {Path(path).name for path in report.failed} == {"v9.mp4"}
    assert all("the process that read it died, again and again" in reason for reason in report.failed.values())
    assert len(results(tmp_path / "out")) == 4


@pytest.mark.slow
def test_a_process_that_dies_once_costs_nothing(videos, tmp_path):
    here = make_fatal(shutil.copytree(videos, tmp_path / "here"))
    report = extract(here, tmp_path / "out", model=DiesOnce(str(tmp_path / "note")), workers=2)
    assert (report.made, report.failed) == (5, {})
    assert not list((tmp_path / "out").rglob(".*"))


def test_interrupted_run_goes_on(videos, tmp_path, monkeypatch):
    log, out = tmp_path / "log", tmp_path / "out"
    model = Slow(str(log), seconds=0)
    add = Progress.add

    def stop(self, record):
        add(self, record)
        if record.path.endswith("v1.mp4"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(videos, out, model=model)
    assert len(results(out)) == 2
    with (out / PROGRESS).open("a") as file:
        file.write('{"id": "cut o')  # as a kill leaves it
    report = extract(videos, out, model=model)
    assert (report.made, report.found) == (2, 2)
    assert not (out / PROGRESS).exists()
    assert len(read_manifest(out / MANIFEST)) == 4


def test_results_without_a_note_are_found_by_their_content(videos, tmp_path):
    """A driver may be killed between a result and its note."""
    out = tmp_path / "out"
    extract(videos, out)
    before = without_seconds(out)
    (out / MANIFEST).unlink()
    report = extract(videos, out)
    assert (report.made, report.found) == (0, 4)
    assert without_seconds(out) == before


def test_damaged_result_is_made_again(videos, tmp_path):
    out = tmp_path / "out"
    extract(videos, out)
    whole = results(out)
    victim = out / next(iter(whole))
    victim.write_bytes(victim.read_bytes()[:50])
    (out / MANIFEST).unlink()
    assert extract(videos, out).made == 1
    assert results(out) == whole


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_full_disk_stops_the_run_and_a_rerun_completes(videos, full_disk, tmp_path, workers):
    out = tmp_path / "out"
    extract(videos, tmp_path / "whole")
    sizes = sorted(len(data) for data in results(tmp_path / "whole").values())
    with full_disk(sizes[1] + 100), pytest.raises((OSError, siammae.WorkerError), match="File too large"):
        extract(videos, out, workers=workers)
    there = results(out)
    assert there.items() < results(tmp_path / "whole").items()
    assert not list(out.rglob(".*"))
    report = extract(videos, out)
    assert report.made + report.found == 4
    assert report.found == len(there)
    assert results(out) == results(tmp_path / "whole")


def test_disk_that_is_too_small_is_refused_before_the_work(videos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OSError, match=r"would need about .* left\. Store less"):
        extract(videos, tmp_path / "out", say=said.append)
    assert "4 videos" in said[0]
    assert results(tmp_path / "out") == {}


def test_shares_together_are_the_whole(videos, plain, weights, tmp_path):
    out = tmp_path / "out"
    assert extract(videos, out, model=ModelName(weights), shard="2/3").made == 1
    with pytest.raises(ValueError, match=r"lacks the shares \['1/3', '3/3'\]: run --shard with them"):
        merge_shares(out)
    assert extract(videos, out, model=ModelName(weights), shard="1/3").made == 2
    assert extract(videos, out, model=ModelName(weights), shard="3/3").made == 1
    with pytest.raises(FileNotFoundError, match="has one once siammae extract has ended"):
        siammae.open_features(out)
    report = merge_shares(out)
    assert (report.found, report.failed) == (4, {})
    assert without_seconds(out) == without_seconds(plain)
    assert results(out) == results(plain)
    assert extract(videos, out, model=ModelName(weights), shard="1/2").found == 2
    with pytest.raises(ValueError, match="that would remove what other shards made"):
        extract(videos, out, model=ModelName(weights), shard="1/2", overwrite=True)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/2/3"])
def test_shares_that_there_are_not_are_refused(text):
    with pytest.raises(ValueError, match="it must be I/N, part I of N"):
        Share.parse(text)


def test_principal_components_are_fitted_once_for_all(videos, tmp_path):
    out = tmp_path / "out"
    extract(videos, out, pca=5, shard="1/2")
    fitted = (out / "pca.safetensors").stat().st_mtime_ns
    extract(videos, out, pca=5, shard="2/2")
    assert (out / "pca.safetensors").stat().st_mtime_ns == fitted
    merge_shares(out)
    dataset = siammae.open_features(out)
    assert dataset[0].shape == (6, 5, 4, 6)
    restored = dataset["v1.mp4"].read(restore=True)
    expected = PixelExtractor(8).extract(videos / "v1.mp4").numpy()
    assert np.square(restored - expected).mean() < 0.5 * expected.var()
    assert (
        np.square(restored - expected).mean()
        < np.square(expected - expected.mean(axis=(0, 2, 3), keepdims=True)).mean()
    )


def test_cuts_folders_of_images_and_shards_are_videos_too(videos, tmp_path):
    video = list(siammae.read_frames(videos / "v0.mp4"))
    for index, frame in enumerate(video):
        for name in ("one", "two"):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "images" / name / f"{index}.png", frame)
    expected = PixelExtractor(8).extract(video).numpy()
    extract(tmp_path / "images", tmp_path / "out1")
    dataset = siammae.open_features(tmp_path / "out1")
    assert [record.frames for record in dataset.records] == [6, 6]
    assert dataset.records[0].id == dataset.records[1].id  # of one content
    np.testing.assert_array_equal(dataset["two"][:], expected)

    (videos / "cuts.csv").write_text("path,start,stop\nv0.mp4,0.04,0.16\nv0.mp4,,\n")
    extract(videos / "cuts.csv", tmp_path / "out2")
    (videos / "cuts.csv").unlink()
    dataset = siammae.open_features(tmp_path / "out2")
    np.testing.assert_array_equal(dataset["v0.mp4@0.04-0.16"][:], expected[1:4])
    np.testing.assert_array_equal(dataset["v0.mp4"][:], expected)

    write_shards(videos, tmp_path / "shards", ShardSettings(short_side=None, format="png", step=2), workers=1)
    extract(tmp_path / "shards", tmp_path / "out3", every=2)
    dataset = siammae.open_features(tmp_path / "out3")
    assert len(dataset) == 4
    name = next(record.path for record in dataset.records if record.path.endswith("#v0.mp4"))
    np.testing.assert_array_equal(dataset[name][:], expected[::4])


def test_dataset_is_read_by_id_path_and_number(plain, videos):
    dataset = siammae.open_features(plain)
    second = dataset.records[1]
    for key in (1, second.id, second.path, Path(second.path), "v1.mp4", "videos/v1.mp4"):
        assert dataset[key].path.stem == second.id
    for key, message in (("v7.mp4", "none of the 4 videos"), ("", "none of the 4 videos")):
        with pytest.raises(KeyError, match=message):
            dataset[key]
    vectors = dataset.vectors()
    assert vectors.shape == (4, 32)
    np.testing.assert_allclose(vectors[1], dataset[1][:].mean(axis=(0, 2, 3)), atol=1e-5)


def test_frames_of_all_videos_feed_a_dataloader(plain):
    from torch.utils.data import DataLoader

    dataset = siammae.open_features(plain)
    frames = dataset.frames()
    assert len(frames) == 30
    seen = list(DataLoader(frames, batch_size=7, num_workers=2))
    assert [tuple(features.shape) for features, _, _ in seen] == [(7, 32, 4, 6)] * 4 + [(2, 32, 4, 6)]
    assert [int(number) for number in np.concatenate([video for _, video, _ in seen])] == [0] * 6 + [1] * 7 + [
        2
    ] * 8 + [3] * 9
    np.testing.assert_array_equal(seen[1][0][2].numpy(), dataset[1].frame(3))
    with pytest.raises(IndexError, match="frame 30: there are 30"):
        frames[30]


def test_manifest_cannot_lead_out_of_its_folder(plain, tmp_path):
    out = shutil.copytree(plain, tmp_path / "out")
    records = read_manifest(out / MANIFEST)
    shutil.copy(out / records[0].file, tmp_path / "secret.safetensors")
    from dataclasses import replace

    write_manifest(out / MANIFEST, [replace(records[0], file="../secret.safetensors")])
    with pytest.raises(ValueError, match=r"names '\.\./secret\.safetensors', which leaves the folder"):
        siammae.open_features(out)[0]
    (out / MANIFEST).write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="is no manifest of siammae's, or damaged"):
        siammae.open_features(out)


def test_names_of_any_bytes_are_listed(videos, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(videos / "v0.mp4", os.fsencode(here) + b"/\xff.mp4")
    report = extract(here, tmp_path / "out")
    assert report.made == 1
    assert read_manifest(tmp_path / "out" / MANIFEST)[0].path.endswith("\\udcff.mp4")


def test_other_weights_under_the_same_name_are_refused_in_a_worker(videos, tmp_path):
    weights = tiny_model().save_pretrained(tmp_path / "model")
    from siammae.corpus.features_work import FeaturesWork

    work = FeaturesWork(tmp_path / "out", ModelName(str(weights)), siammae.ExtractionConfig())
    work.__dict__.update(work.__getstate__())  # as in another process
    tiny_model(seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="has other weights here"):
        work.model  # noqa: B018


def test_a_corpus_is_not_written_into_its_source_or_another_programs_folder(videos, tmp_path):
    with pytest.raises(ValueError, match="is an input, and inputs are never overwritten"):
        extract(videos, videos)
    with pytest.raises(ValueError, match="is an input, and inputs are never overwritten"):
        extract(videos, videos, shard="1/2")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text('{"mine": 1}')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"settings\.json is not of siammae's features"):
            extract(videos, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "settings.json").read_text() == '{"mine": 1}'


def test_options_of_engines_are_checked_before_the_work(videos, tmp_path):
    for options, message in (
        ({"engine": "dask"}, "engine is 'dask': it must be one of 'local', 'ray'"),
        ({"workers": 0}, "workers is 0: it must be at least 1"),
        ({"address": "auto"}, "address is 'auto', which is of a Ray cluster"),
        ({"layer": 9, "model": tiny_model()}, "layer is 9: the encoder has 2 blocks"),
        ({"pool": "cls"}, "PixelExtractor has no CLS token"),
        ({"max_failed": 1.0}, r"max_failed is 1\.0: it must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(videos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("module", "extra", "options"), [("pyarrow", "corpus", {}), ("ray", "ray", {"engine": "ray"})])
def test_without_a_package_it_is_said_how_to_install_it(module, extra, options, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "siammae\[{extra}\]"'):
        extract(videos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_workers_share_the_gpus_and_none_is_given_two_types(monkeypatch):
    from siammae.corpus import models
    from siammae.corpus.engines import usual_workers

    loaded = []
    monkeypatch.setattr(models.SiamMAE, "from_pretrained", lambda name, **options: loaded.append(options))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for worker in (None, 0, 1, 2):
        monkeypatch.setattr(models, "worker_number", lambda worker=worker: worker)
        ModelName("a", "cuda", "bfloat16").load()
    assert [str(options["device"]) for options in loaded] == ["cuda", "cuda:0", "cuda:1", "cuda:0"]
    assert {str(options["dtype"]) for options in loaded} == {"torch.bfloat16"}
    assert (usual_workers("cuda"), usual_workers("cuda:1"), usual_workers("mps")) == (2, 1, 1)
    assert usual_workers("cpu") >= 1
    assert ModelName("a", "cpu", "auto").settled({"dtype": "bfloat16"}).dtype == "bfloat16"
