import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mace_studio.errors import FileError
from mace_studio.sd import files

TENSORS = {
    "odd": torch.arange(3, dtype=torch.uint8),
    "half": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).half(),
    "brain": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(4.0),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "count": torch.tensor([7, 8]),
    "truth": torch.tensor([True, False]),
}


def test_what_is_written_is_what_the_library_reads(tmp_path):
    about = {"format": "pt", "title": "“cat”", "a": "1"}
    files.write(tmp_path / "new" / "all.safetensors", TENSORS, about)
    read = load_file(tmp_path / "new" / "all.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    with safe_open(tmp_path / "new" / "all.safetensors", framework="pt") as file:
        assert file.metadata() == about


def test_equal_content_gives_equal_bytes(tmp_path):
    about = {name: name for name in "fbadce"}
    files.write(tmp_path / "a", TENSORS, about)
    files.write(tmp_path / "b", dict(reversed(TENSORS.items())), dict(sorted(about.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_dtype_of_the_format_goes_both_ways(tmp_path):
    tensors = {name: torch.ones(2).to(dtype) for name, dtype in files.DTYPES.items()}
    files.write(tmp_path / "all", tensors)
    with safe_open(tmp_path / "all", framework="pt") as file:
        for name, dtype in files.DTYPES.items():
            assert file.get_slice(name).get_dtype() == name and file.get_tensor(name).dtype == dtype


@pytest.fixture
def small_files():
    """A disk that is full after 64 kB: the system stops every longer write in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_ends_in_its_middle_leaves_what_was_there(tmp_path, small_files):
    path = tmp_path / "cat.safetensors"
    path.write_text("the old one")
    with pytest.raises(FileError, match=r"File too large\. Make room on the disk"):
        files.write(path, {"large": torch.zeros(100_000)})
    assert path.read_text() == "the old one" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def read_only():
    """A folder that may be read only, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o755)
    folder.rmdir()


def test_a_read_only_folder_is_said(read_only):
    with pytest.raises(FileError, match=r"could not be written: Permission denied\. Choose another folder\."):
        files.write(read_only / "cat.safetensors", TENSORS)


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Choose another folder"):
        files.write(tmp_path / "file" / "cat.safetensors", TENSORS)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int32])
def test_a_dtype_that_nothing_is_computed_in_is_made_again(tmp_path, dtype):
    path = tmp_path / "gram.safetensors"
    save_file({"gram_DD": torch.zeros(2, 2).to(dtype)}, path)
    assert files.cached(path, {"gram_DD": (2, 2)}) is None


def test_another_dtype_than_was_computed_is_made_again(tmp_path):
    path = tmp_path / "gram.safetensors"
    save_file({"gram_DD": torch.zeros(2, 2).half()}, path)
    assert files.cached(path, {"gram_DD": (2, 2)}, (torch.float64,)) is None


def test_a_folder_in_the_place_of_a_file_of_the_cache_steps_aside(tmp_path):
    path = tmp_path / "gram.safetensors"
    path.mkdir()
    (path / "note.txt").write_text("mine")
    assert files.cached(path, {"gram_DD": (2, 2)}) is None
    files.keep(path, {"gram_DD": torch.ones(2, 2)})
    assert files.cached(path, {"gram_DD": (2, 2)})["gram_DD"].sum() == 4
    assert [found.read_text() for found in tmp_path.rglob("note.txt")] == ["mine"]


def test_a_file_that_another_process_replaces_while_it_is_read_is_whole(tmp_path, monkeypatch):
    path, opened = tmp_path / "gram.safetensors", files.safe_open
    files.keep(path, {"gram_DD": torch.ones(2, 2)})

    def replaced(*args, **options):
        files.keep(path, {"gram_DD": torch.zeros(2, 2)})
        return opened(*args, **options)

    monkeypatch.setattr(files, "safe_open", replaced)
    assert files.cached(path, {"gram_DD": (2, 2)})["gram_DD"].sum() == 0
