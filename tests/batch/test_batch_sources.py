"""Sources and keys: what is found, what is passed over, and what photos are called."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.batch_fakes import fake_job, paint
from lifemask.assets import UserError
from lifemask.batch.keys import Keys, plain_key
from lifemask.batch.run import run_batch
from lifemask.batch.sources import find_photos, read_member
from lifemask.batch.work import read_item


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def keys(*sources, **options) -> list[str]:
    return [item.key for item in find_photos(sources, **options).items]


def test_folders_to_their_depth(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/1.JPEG", "z.png", "a/deep/2.webp", "a/notes.md", "a/movie.mp4",
          ".hidden/3.jpg", "a/._1.jpg", "a/README")  # fmt: skip
    listing = find_photos([tmp_path])
    assert [i.key for i in listing.items] == ["z", "a/1", "a/deep/2", "b/1"]
    assert [i.source for i in listing.items][0] == str(tmp_path / "z.png")
    skipped = {k: v for k, v in listing.skipped.items() if v}
    assert skipped == {".md": 1, ".mp4": 1, "hidden": 1, "no ending": 1}


def test_outputs_of_runs_are_no_sources(tmp_path):
    touch(tmp_path, "a.jpg", "out/heads/a/preview.png", "old/batch.json", "old/heads/b/preview.png")
    listing = find_photos([tmp_path], leave_out=tmp_path / "out")
    assert [i.key for i in listing.items] == ["a"]
    assert listing.skipped["folder of a run"] == 1


def test_names_that_clash_get_keys_of_their_own(tmp_path):
    touch(tmp_path, "1.jpg", "1.png", "1/x.jpg", "A.jpg", "a.png", "b.c.jpg", "b_c.jpg")
    found = find_photos([tmp_path]).items
    names = [item.key for item in found]
    assert len({n.casefold() for n in names}) == len(names) == 7
    folders = {"/".join(n.split("/")[:-1]) for n in names} - {""}
    assert not folders & set(names), "no key is the folder of another"
    assert names == keys(tmp_path), "the same every time"


def test_several_folders_are_told_apart(tmp_path):
    touch(tmp_path, "one/1.jpg", "two/1.jpg", "x/one/1.jpg")
    assert keys(tmp_path / "one") == ["1"]
    found = keys(tmp_path / "one", tmp_path / "two", tmp_path / "x" / "one")
    assert found[:2] == ["one/1", "two/1"] and found[2].startswith("one/1-")


def test_known_photos_keep_their_keys(tmp_path):
    touch(tmp_path, "1.jpg", "1.png")
    known = {str(tmp_path / "1.png"): "1"}
    first, second = find_photos([tmp_path], known=known).items
    assert second.key == "1" and first.key.startswith("1-")


def test_files_and_patterns(tmp_path, monkeypatch):
    touch(tmp_path, "s1/front.png", "s2/front.png", "s2/front.txt", "s2/side.png")
    assert keys(tmp_path / "s1/front.png") == ["front"]
    assert keys(tmp_path / "s1/front.png", tmp_path / "s2/side.png") == ["s1/front", "s2/side"]
    assert keys(f"{tmp_path}/*/front.*") == ["s1/front", "s2/front"]
    monkeypatch.chdir(tmp_path)
    assert keys("**/*.png") == ["s1/front", "s2/front", "s2/side"]
    listing = find_photos(["s1/front.png", "s1/../s1/front.png", "s1"])
    assert len(listing.items) == 1 and listing.repeated == 2
    assert keys(".", limit=2) == ["s1/front", "s2/front"]


def test_lists(tmp_path, monkeypatch):
    touch(tmp_path, "data/a/1.jpg", "data/b/1.jpg", "here.jpg")
    plain = tmp_path / "data" / "list.txt"
    plain.write_text(f"# photos\na/1.jpg\n\n{tmp_path}/data/b/1.jpg\na/1.jpg\ngone.jpg\n")
    listing = find_photos([plain])
    assert [i.key for i in listing.items] == ["a/1", "b/1", "gone"], "a missing one will fail"
    table = tmp_path / "data" / "table.csv"
    table.write_text('\ufeffage,file,key\n30,a/1.jpg,anna\n31,"b/1.jpg",be.rt\n', "utf-8")
    assert keys(table) == ["anna", "be_rt"]
    (tmp_path / "data" / "bare.csv").write_text("a/1.jpg,x\nb/1.jpg,y\n")
    assert keys(tmp_path / "data" / "bare.csv") == ["a/1", "b/1"]
    monkeypatch.chdir(tmp_path)
    plain.write_text("here.jpg\n")
    assert find_photos([plain]).items[0].path == str(tmp_path / "here.jpg")


def pack(path: Path, members: dict[str, bytes], form=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5  # a fraction makes tarfile add a pax header
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_shards_are_read_in_place(tmp_path):
    photo = paint(tmp_path / "photo.png", 50).read_bytes()
    long = "d" * 120
    shard = pack(
        tmp_path / "s.tar",
        {
            "0001.json": b"{}", "0001.mask.png": b"mask", "0001.png": photo, "0001.depth.png": b"d",
            "x/0001.jpg": b"broken", f"{long}.png": photo, "0002.json": b"{}",
        },
    )  # fmt: skip
    listing = find_photos([shard])
    assert [i.key for i in listing.items] == ["0001", "x/0001", long]
    assert listing.skipped["further picture of a sample"] == 2
    assert read_member(listing.items[0]) == photo == read_member(listing.items[2])
    assert read_item(listing.items[0]).shape == (24, 20, 3)
    assert listing.items[0].source == f"{shard}!0001.png"
    again = pack(tmp_path / "t.tar", {"0001.png": photo}, tarfile.GNU_FORMAT)
    assert keys(f"{tmp_path}/*.tar") == keys(shard, again)
    assert keys(f"{tmp_path}/*.*")[0] == "photo"
    found = keys(shard, again)
    assert found[0] == "0001" and found[3].startswith("0001-")


def test_a_run_from_shards_names_members_in_failures(tmp_path):
    photo = paint(tmp_path / "photo.png", 50).read_bytes()
    shard = pack(tmp_path / "s.tar", {"1.png": photo, "2.png": b"no picture", "3.jpg": b""})
    job = fake_job(tmp_path / "out")
    status = run_batch(job, [shard], workers=0)
    assert (status.done, status.failed) == (1, 2)
    failures = (job.folder / "failures.csv").read_text()
    assert f"{shard}!2.png is not an image" in failures and "3.jpg is empty" in failures
    assert "lifemask-" not in failures, "no word of temporary files"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "gone.jpg", "does not exist: name a folder"),
        (lambda p: p / "*.jpg", "no file matches"),
        (lambda p: touch(p, "x.tar.gz") / "x.tar.gz", "unpack it first"),
        (lambda p: touch(p, "x.doc") / "x.doc", "is no photo, list"),
        (lambda p: touch(p, "x.txt") / "x.txt", "names no photo"),
        (lambda p: touch(p, "x.tar") / "x.tar", "cannot read the shard"),
    ],
)
def test_wrong_sources_are_told(tmp_path, make, words):
    with pytest.raises(UserError, match=words):
        find_photos([make(tmp_path)])


def test_cut_off_shards_and_odd_lists_are_told(tmp_path):
    shard = pack(tmp_path / "s.tar", {"1.png": bytes(5000), "2.png": bytes(5000)})
    shard.write_bytes(shard.read_bytes()[:7000])
    with pytest.raises(UserError, match="cannot read the shard"):
        find_photos([shard])
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the list"):
        find_photos([tmp_path / "x.csv"])
    with pytest.raises(UserError, match="no photos given"):
        find_photos([])


@given(st.lists(st.text(max_size=300), max_size=30))
def test_keys_are_safe_and_differ(names):
    keys = Keys()
    found = [keys.give(plain_key(name), f"{i} {name!r}") for i, name in enumerate(names)]
    assert len({k.casefold() for k in found}) == len(names)
    for key in found:
        for part in key.split("/"):
            assert part.strip(" ") == part != "" and not set(part) & set('.<>:"\\|?*\0\n')
            assert len(part.encode()) <= 255
