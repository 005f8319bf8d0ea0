"""What was spooled comes back as it was, whatever happened meanwhile."""

import os
import resource
import threading

import pytest

from braggd.errors import SourceError
from braggd.sources.spool import SpoolReader, SpoolWriter

MESSAGES = [[b"header", b"", b"x" * 100_000], [b"image"], [b"", b""], [memoryview(b"view"), b"end"]]


@pytest.fixture
def spooled(tmp_path):
    path = tmp_path / "spool"
    with SpoolWriter(path) as writer:
        offsets = [writer.append(parts) for parts in MESSAGES]
        writer.sync()
        assert writer.size == path.stat().st_size
    return path, offsets


def contents(path, start=0):
    with SpoolReader(path) as reader:
        return [[bytes(part) for part in parts] for _, parts in reader.records(start)]


def test_messages_come_back_part_by_part(spooled):
    path, offsets = spooled
    assert contents(path) == [[bytes(part) for part in parts] for parts in MESSAGES]
    with SpoolReader(path) as reader:
        assert [offset for offset, _ in reader] == offsets
        assert bytes(reader.read(offsets[3])[0]) == b"view"
        assert reader.intact_size() == path.stat().st_size
    assert len(contents(path, offsets[2])) == 2


def test_a_torn_tail_ends_the_reading_and_is_cut_off_by_the_next_writer(spooled):
    path, offsets = spooled
    whole = path.read_bytes()
    for size in range(offsets[-1] + 1, len(whole)):
        path.write_bytes(whole[:size])
        assert len(contents(path)) == 3
        with SpoolReader(path) as reader, pytest.raises(SourceError, match="spool"):
            reader.read(offsets[-1])
        with SpoolWriter(path) as writer:
            assert writer.append(MESSAGES[-1]) == offsets[-1]
        assert path.read_bytes() == whole


def test_zeros_left_by_a_power_failure_end_the_reading(spooled):
    path, _ = spooled
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert len(contents(path)) == 4


@pytest.mark.parametrize("byte", [0, 3, 4, 8, 12, 17, 35])
def test_a_damaged_header_is_told_with_the_files_name(spooled, byte):
    path, _ = spooled
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 0x41
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match=str(path)):
        contents(path)
    with pytest.raises(SourceError, match=str(path)):
        SpoolWriter(path)


def test_a_reader_follows_the_writer(tmp_path):
    path = tmp_path / "spool"
    messages = [[os.urandom(10), os.urandom(30_000)] for _ in range(500)]
    found, written = [], threading.Event()

    def write():
        with SpoolWriter(path) as writer:
            for parts in messages:
                writer.append(parts)
        written.set()

    SpoolWriter(path).close()
    with SpoolReader(path) as reader:
        thread = threading.Thread(target=write)
        thread.start()
        start = 0
        while len(found) < len(messages):
            finished = written.is_set()
            for offset, parts in reader.records(start):
                found.append([bytes(part) for part in parts])
                start = reader.after(offset)
            assert not finished or len(found) == len(messages)
        thread.join()
    assert found == messages


def test_many_threads_read_at_once(spooled):
    path, offsets = spooled
    wrong = []
    with SpoolReader(path) as reader:

        def read():
            for _ in range(200):
                for offset, parts in zip(offsets, MESSAGES, strict=True):
                    if [bytes(part) for part in reader.read(offset)] != [bytes(part) for part in parts]:
                        wrong.append(offset)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_full_disk_leaves_what_was_written(spooled):
    path, _ = spooled
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    with SpoolWriter(path) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, limits[1]))
        try:
            with pytest.raises(SourceError, match="free the disk"):
                writer.append([b"x" * 100_000])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == writer.size == size
        writer.append([b"room again"])
    assert contents(path)[4:] == [[b"room again"]]


def test_what_cannot_be_opened_is_said_in_a_sentence(tmp_path):
    for attempt in (lambda: SpoolReader(tmp_path / "none"), lambda: SpoolWriter(tmp_path / "no" / "folder")):
        with pytest.raises(SourceError, match=str(tmp_path)):
            attempt()
    with SpoolWriter(tmp_path / "spool") as writer, pytest.raises(SourceError, match="0 parts"):
        writer.append([])
