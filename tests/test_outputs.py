"""A photo's folder appears whole or not at all."""

from pathlib import Path

import pytest

from lifemask.outputs import FORMATS, OutputError, check_formats, new_folder


def write(folder: Path, overwrite: bool = False, text: str = "new") -> None:
    with new_folder(folder, overwrite) as part:
        (part / "head.glb").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_folder_appears_with_its_parents(tmp_path):
    write(tmp_path / "a" / "b" / "photo")
    assert names(tmp_path / "a" / "b") == ["photo"]
    assert (tmp_path / "a/b/photo/head.glb").read_text() == "new"
    assert (tmp_path / "a/b/photo").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "photo") as part:
        (part / "head.glb").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_failure_leaves_the_old_result(tmp_path):
    write(tmp_path / "photo", text="old")
    with pytest.raises(ValueError), new_folder(tmp_path / "photo", overwrite=True) as part:
        (part / "head.glb").write_text("half")
        raise ValueError
    assert names(tmp_path) == ["photo"]
    assert (tmp_path / "photo/head.glb").read_text() == "old"


def test_old_results_are_replaced_only_when_asked(tmp_path):
    write(tmp_path / "photo", text="old")
    (tmp_path / "photo" / "preview.png").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        write(tmp_path / "photo")
    write(tmp_path / "photo", overwrite=True)
    assert names(tmp_path / "photo") == ["head.glb"] and names(tmp_path) == ["photo"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "photo").mkdir()
    write(tmp_path / "photo")
    assert names(tmp_path / "photo") == ["head.glb"]


def test_folders_of_others_are_never_replaced(tmp_path):
    (tmp_path / "photo").mkdir()
    (tmp_path / "photo" / "thesis.tex").touch()
    with pytest.raises(OutputError, match="left alone"):
        write(tmp_path / "photo", overwrite=True)
    assert names(tmp_path / "photo") == ["thesis.tex"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "photo", tmp_path / "file" / "a" / "b"):
        with pytest.raises(OutputError, match="is a file"):
            write(folder, overwrite=True)


def test_a_place_that_cannot_be_written():
    # No one, root included, can make folders in /proc.
    with pytest.raises(OutputError, match="cannot write") as error:
        write(Path("/proc/lifemask/photo"))
    assert "\n" not in str(error.value)


def test_formats():
    assert check_formats(["png", "glb", "png"]) == ("png", "glb")
    assert check_formats(FORMATS) == FORMATS
    with pytest.raises(OutputError, match="valid: glb,obj,ply,json,png"):
        check_formats(["stl"])
