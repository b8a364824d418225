"""The cache: found again by content, learned once, never half a file, never too large."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

import escdiff_core
from escdiff_core.attribute import Attribute
from escdiff_core.attribute.cache import AttributeCache, cache_key
from escdiff_core.errors import ESCDiffError


def attribute(seed: int = 0) -> Attribute:
    return Attribute(kind="shape", token="*m", word="object",
                     embeddings={"clip_l": torch.full((1, 8), float(seed + 1))}, delta={}, blocks=(),
                     recipe="r", recipe_hash="h", preset="p", base_fingerprint="f", steps=1, seed=seed)


def test_a_release_has_one_version():
    project = (Path(escdiff_core.__file__).parent.parent / "pyproject.toml").read_text()
    assert f'version = "{escdiff_core.__version__}"' in project, (
        "the cache forgets what another version learned"
    )


def test_the_key_changes_with_any_part():
    parts = {"model": "a", "references": ["x"], "seed": 0}
    assert cache_key(parts) == cache_key(dict(reversed(parts.items())))
    assert len({cache_key({**parts, name: "other"}) for name in parts} | {cache_key(parts)}) == 4


def test_it_learns_once_and_finds_it_again_in_another_process(tmp_path):
    calls = []
    for _ in range(3):
        found = AttributeCache(tmp_path).get_or_learn("k", lambda: calls.append(1) or attribute(7))
        assert found.seed == 7
    assert len(calls) == 1


def test_two_at_once_learn_once(tmp_path):
    calls, waits, results = [], [], []

    def slow():
        calls.append(1)
        time.sleep(1.2)
        return attribute()

    def one():
        results.append(AttributeCache(tmp_path).get_or_learn("k", slow, lambda: waits.append(1)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(results) == 2 and waits


def test_waiting_can_be_given_up(tmp_path):
    cache, inside, done = AttributeCache(tmp_path), threading.Event(), threading.Event()

    def slow():
        inside.set()
        done.wait(5)
        return attribute()

    thread = threading.Thread(target=lambda: cache.get_or_learn("k", slow))
    thread.start()
    inside.wait(5)

    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AttributeCache(tmp_path).get_or_learn("k", attribute, cancel)
    done.set()
    thread.join()
    assert cache.get("k") is not None


def test_a_failed_run_leaves_nothing_and_frees_the_lock(tmp_path):
    def fail():
        raise ESCDiffError("out of memory")

    cache = AttributeCache(tmp_path)
    with pytest.raises(ESCDiffError):
        cache.get_or_learn("k", fail)
    assert cache.get("k") is None and cache.get_or_learn("k", attribute).steps == 1


def test_a_damaged_file_is_learned_again(tmp_path):
    cache = AttributeCache(tmp_path)
    tmp_path.joinpath("k.safetensors").write_bytes(b"half")
    assert cache.get("k") is None
    assert cache.get_or_learn("k", attribute).steps == 1


def test_the_least_recently_used_go_first_and_the_newest_stays(tmp_path):
    cache = AttributeCache(tmp_path)
    for i, name in enumerate("abc"):
        cache.get_or_learn(name, lambda i=i: attribute(i))
        os.utime(cache.path(name), (i, i))
    cache.get("a")                                            # used just now
    small = AttributeCache(tmp_path, size_limit=2 * cache.path("a").stat().st_size)
    small.get_or_learn("d", attribute)
    assert {n for n in "abcd" if cache.get(n)} == {"a", "d"}
    tiny = AttributeCache(tmp_path, size_limit=1)
    tiny.get_or_learn("e", attribute)
    assert [n for n in "abcde" if cache.get(n)] == ["e"]


def test_what_cannot_be_kept_is_learned_all_the_same(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    assert AttributeCache(tmp_path / "file" / "cache").get_or_learn("k", attribute).steps == 1
    assert "not kept for the next time" in caplog.text

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("escdiff_core.files.save_file", full)
    assert AttributeCache(tmp_path).get_or_learn("k", attribute).steps == 1
    assert "no space left on the disk" in caplog.text


def test_a_run_cut_short_is_kept_until_one_comes_to_its_end(tmp_path):
    cache = AttributeCache(tmp_path)

    def stopped():
        cache.unfinished("k").mkdir()
        (cache.unfinished("k") / "state").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_learn("k", stopped)
    assert (cache.unfinished("k") / "state").is_file()
    assert cache.get_or_learn("k", attribute).steps == 1
    assert not cache.unfinished("k").exists() and cache.get("k") is not None


def test_unfinished_runs_have_a_limit_of_their_own(tmp_path):
    cache = AttributeCache(tmp_path)
    cache.get_or_learn("finished", attribute)
    small = AttributeCache(tmp_path, size_limit=250)

    def stopped(name):
        small.unfinished(name).mkdir()
        (small.unfinished(name) / "state").write_bytes(b"x" * 100)
        raise KeyboardInterrupt

    for i, name in enumerate("abc"):
        with pytest.raises(KeyboardInterrupt):
            small.get_or_learn(name, lambda name=name: stopped(name))
        os.utime(small.unfinished(name), (i, i))
    assert sorted(p.stem for p in tmp_path.glob("*.unfinished")) == ["b", "c"], "the oldest goes"
    assert cache.get("finished") is not None, "a state to go on from takes no finished attribute's place"


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no locks on this disk"), PermissionError(13, "Permission denied")],
    ids=["no locks", "read-only"],
)
def test_where_nothing_can_be_locked_it_is_learned_all_the_same(tmp_path, monkeypatch, error):
    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("escdiff_core.attribute.cache.FileLock.acquire", refuse)
    assert AttributeCache(tmp_path).get_or_learn("k", attribute).steps == 1


def test_a_folder_that_may_not_be_looked_into_counts_as_empty(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    assert AttributeCache(tmp_path).get("k") is None
