"""Names that people type for files: which of them become a path, and which are refused with a reason."""

import pytest

from escdiff_core.cli import main
from escdiff_core.errors import ESCDiffError
from escdiff_core.files import file_below, next_free
from escdiff_core.learning.train_filters import examples_from_folder


@pytest.mark.parametrize("name, path", [("vase", "vase"), (" vase.safetensors ", "vase"),
                                        ("animals/cat", "animals/cat"), ("animals\\cat", "animals/cat"),
                                        ("a\\b/c.safetensors", "a/b/c"), ("猫 🐈 v1.5", "猫 🐈 v1.5"),
                                        ("n" * 180, "n" * 180), ("a/../b", "b"), ("it's", "it's"),])
def test_a_name_becomes_a_path_below_the_folder(name, path, tmp_path):
    made = file_below(tmp_path, name)
    assert made == tmp_path / f"{path}.safetensors"
    made.parent.mkdir(exist_ok=True, parents=True)
    made.write_text("it can be held")


@pytest.mark.parametrize("name, words", [("", "does not lie"), ("..", "hidden"), ("../a", "does not lie"),
                                         ("a/../../b", "does not lie"), ("..\\a", "does not lie"),
                                         ("/etc/a", "does not lie"), (".hidden", "hidden"),
                                         ("sub/", "ends with a folder"), ("sub\\", "ends with a folder"),
                                         (".git/a", "hidden"), ("a/.b", "hidden"), ("dot.", "ends with"),
                                         ("a:b", "one of the signs"), ("what?", "one of the signs"),
                                         ("a/" * 600 + "b", "longer than 1000"), ("sub /a", "ends with"),
                                         ("CON", "device"), ("nul.safetensors", "device"),
                                         ("com1.v2", "device"), ("a/lpt9", "device"),
                                         ("a\0b", "cannot be seen"), ("a\nb", "cannot be seen"),
                                         ("n" * 240, "longer than 200 bytes"),
                                         ("猫" * 90, "longer than 200"),])
def test_a_name_that_would_be_lost_is_one_sentence(name, words, tmp_path):
    with pytest.raises(ESCDiffError, match=words) as error:
        file_below(tmp_path, name)
    assert (
        "\n" not in str(error.value)
        and "\0" not in str(error.value)
        and len(str(error.value)) < 400 + len(str(tmp_path))
    )


def test_a_number_goes_behind_the_longest_name_too(tmp_path):
    """A file of that name is there: what was learned must not be lost over the number."""
    first = file_below(tmp_path, "n" * 188)
    assert next_free(first) == first
    first.write_text("somebody's")
    second = next_free(first)
    second.write_text("it can be held")
    assert second.name == "n" * 188 + "_02.safetensors" and next_free(first).name.endswith("_03.safetensors")
    assert next_free(first, lambda there: there == second) == second


@pytest.mark.parametrize("out", ["n" * 300 + ".safetensors", "n" * 300 + "/a.safetensors"])
def test_a_path_that_is_too_long_is_told_before_the_work(out, tmp_path, capsys, monkeypatch):
    from escdiff_core.learning import tune

    monkeypatch.setattr(tune.Tuner, "step", lambda self: pytest.fail("learning has begun"))
    reference = tmp_path / "reference.png"
    _disc(reference)
    assert (
        main(["learn", "--kind", "shape", "--reference", str(reference), "--out", str(tmp_path / out)]) == 2
    )
    error = capsys.readouterr().err
    assert "File name too long" in error and error.count("\n") == 1


def _disc(path):
    from method_zoo import disc
    from PIL import Image

    Image.fromarray((disc((128, 128)).image * 255).astype("uint8")).save(path)


def test_a_folder_s_path_may_come_with_what_was_pasted_along(tmp_path):
    for name in ("a", "b"):
        _disc(tmp_path / f"{name}.png")
    (tmp_path / "._a.png").write_bytes(b"macOS keeps its own here")
    for text in (f"{tmp_path}\n", f'"{tmp_path}"', f"“{tmp_path}”\r\n", f" '{tmp_path}' "):
        assert len(examples_from_folder(text, 64)) == 2, text


@pytest.mark.parametrize("folder", ["n" * 300, "a\0b", "absent", "picture.png"])
def test_a_folder_that_cannot_be_is_one_sentence(folder, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(ESCDiffError, match="does not exist or is no folder") as error:
        examples_from_folder(tmp_path / folder, 64)
    assert "\n" not in str(error.value)


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    def forbidden(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", forbidden)
    with pytest.raises(
        ESCDiffError, match=r"cannot be read \(Permission denied\); give a folder of your own"
    ):
        examples_from_folder(tmp_path, 64)
