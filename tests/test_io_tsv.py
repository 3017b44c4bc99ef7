"""Text tables: every byte that is not a table is refused, with its line; blocks, images and categories."""

import gzip
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taskgraph_dnn.errors import FileError, InputError, MissingDependencyError
from taskgraph_dnn.io import read_categories, read_challenge_images, streams, write_categories, write_challenge_images
from taskgraph_dnn.io.streams import line_blocks, map_ahead
from taskgraph_dnn.io.tsv import Column, Table, Triples, format_tsv, parse_tsv, to_csr

TABLE = Table("n8-l7.tsv", Column("row", 9), Column("column", 8))
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: value or 0.0)  # no -0.0


def parse(text: str | bytes, **options) -> Triples:
    return parse_tsv(text.encode() if isinstance(text, str) else text, TABLE, **options)


def test_a_table_is_parsed():
    rows, columns, values = parse("9\t1\t6.250000e-02\n007\t8\t-.5\n1\t1\t+3.\n2\t2\t1E+1\n")
    np.testing.assert_array_equal(rows, [8, 6, 0, 1])
    np.testing.assert_array_equal(columns, [0, 7, 0, 1])
    np.testing.assert_array_equal(values, np.array([0.0625, -0.5, 3, 10], np.float32))
    assert (rows.dtype, columns.dtype, values.dtype) == (np.int32, np.int32, np.float32)


def test_values_are_rounded_once():
    # Via float64 the first would be rounded to a tie, and then down to 1.
    text = "1.00000005960464477540"
    assert np.float32(float(text)) == 1
    assert parse(f"1\t1\t{text}\n").values[0] == np.nextafter(np.float32(1), np.float32(2))


def test_windows_lines_and_no_lines_are_fine():
    np.testing.assert_array_equal(parse("1\t2\t3\r\n2\t2\t4\r\n").values, [3, 4])
    assert [array.size for array in parse("")] == [0, 0, 0]


def test_large_limits_take_large_integers():
    table = Table("x", Column("row", 2**40), Column("column", 8))
    rows, _, _ = parse_tsv(b"1099511627776\t1\t1\n", table)
    assert rows[0] == 2**40 - 1


ROW = "expected 1 to 9"
COLUMN = "expected 1 to 8"
NUMBER = "expected a finite float32 number"
BAD_LINES = {
    "1\t2": "expected 3 fields, row, column and value, got 2",
    "1\t2\t3\t4": "expected 3 fields, row, column and value, got 4",
    "1 2 3": "expected 3 fields, row, column and value, got 1",
    "": "the line is empty",
    "0\t2\t3": f"row is 0, {ROW}",
    "10\t2\t3": f"row is 10, {ROW}",
    "-1\t2\t3": f"row is '-1', {ROW}",
    "-0\t2\t3": f"row is '-0', {ROW}",
    "+1\t2\t3": f"row is '\\+1', {ROW}",
    "1.0\t2\t3": f"row is '1.0', {ROW}",
    "1e0\t2\t3": f"row is '1e0', {ROW}",
    "0x1\t2\t3": f"row is '0x1', {ROW}",
    "0X1\t2\t3": f"row is '0X1', {ROW}",
    " 1\t2\t3": f"row is ' 1', {ROW}",
    "1 \t2\t3": f"row is '1 ', {ROW}",
    "1_0\t2\t3": f"row is '1_0', {ROW}",
    '"1"\t2\t3': f"row is '\"1\"', {ROW}",
    "NA\t2\t3": f"row is 'NA', {ROW}",
    "true\t2\t3": f"row is 'true', {ROW}",
    "\t2\t3": f"row is '', {ROW}",
    "1\x00\t2\t3": f"row is '1\\\\x00', {ROW}",
    "１\t2\t3": f"row is '１', {ROW}",
    "\ufeff1\t2\t3": f"row is '\\\\ufeff1', {ROW}",
    "3000000000\t2\t3": f"row is 3000000000, {ROW}",
    "99999999999999999999\t2\t3": f"row is '99999999999999999999', {ROW}",
    "1\t9\t3": f"column is 9, {COLUMN}",
    "1\t0\t3": f"column is 0, {COLUMN}",
    "1\tx\t3": f"column is 'x', {COLUMN}",
    "1\t2\t": f"value is '', {NUMBER}",
    "1\t2\tNA": f"value is 'NA', {NUMBER}",
    "1\t2\tnull": f"value is 'null', {NUMBER}",
    "1\t2\tnan": f"value is 'nan', {NUMBER}",
    "1\t2\tNaN": f"value is 'NaN', {NUMBER}",
    "1\t2\tinf": f"value is 'inf', {NUMBER}",
    "1\t2\t-Infinity": f"value is '-Infinity', {NUMBER}",
    "1\t2\t1e400": f"value is '1e400', {NUMBER}",
    "1\t2\t-1e39": f"value is '-1e39', {NUMBER}",
    "1\t2\t1,5": f"value is '1,5', {NUMBER}",
    "1\t2\t0x1": f"value is '0x1', {NUMBER}",
    "1\t2\t1e": f"value is '1e', {NUMBER}",
    "1\t2\t ": f"value is ' ', {NUMBER}",
    "1\t2\t3\r4\t5\t6": "expected 3 fields, row, column and value, got 5",
    "1\t2\tTRUE": f"value is 'TRUE', {NUMBER}",
}


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("before", [0, 2])
def test_a_bad_line_is_named(line, before):
    text = "1\t1\t1\n" * before + line + "\n" + "2\t2\t2\n"
    with pytest.raises(FileError, match=f"^n8-l7.tsv line {before + 1}: {BAD_LINES[line]}"):
        parse(text)


def test_line_numbers_count_from_where_a_block_starts():
    with pytest.raises(FileError, match="^n8-l7.tsv line 88: column is 9, expected 1 to 8$"):
        parse("1\t1\t1\n1\t9\t1\n", line=87)


@pytest.mark.parametrize("cut", range(1, len("2\t2\t6.25e-02\n")))
def test_a_file_cut_anywhere_in_its_last_line_is_refused(cut):
    with pytest.raises(FileError, match="line 2: the file is cut off after .*, expected a newline at its end"):
        parse(("1\t1\t1\n2\t2\t6.25e-02\n")[:-cut])


def test_a_number_too_long_for_pyarrow_is_refused_without_a_line():
    with pytest.raises(FileError, match="^n8-l7.tsv: "):
        parse("1\t1\t1." + "0" * 5_000_000 + "\n")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_table_or_an_error(content):
    try:
        rows, columns, values = parse(content)
    except FileError as error:
        assert str(error).startswith("n8-l7.tsv")  # noqa: PT017, the content may as well be valid
    else:
        assert rows.size == content.count(b"\n")
        assert np.isfinite(values).all()
        assert ((rows >= 0) & (rows < 9) & (columns >= 0) & (columns < 8)).all()


def test_pyarrow_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"reading TSV needs pyarrow.*pip install 'taskgraph-dnn\[io\]'"):
        parse("1\t1\t1\n")


def matrix(text: str) -> scipy.sparse.csr_array:
    return to_csr(parse(text), (9, 8), TABLE)


@pytest.mark.parametrize("text", ["1\t2\t3\n3\t1\t5\n3\t4\t6\n", "3\t4\t6\n1\t2\t3\n3\t1\t5\n"])
def test_sorted_and_unsorted_lines_give_one_matrix(text):
    csr = matrix(text)
    expected = np.zeros((9, 8), np.float32)
    expected[0, 1], expected[2, 0], expected[2, 3] = 3, 5, 6
    np.testing.assert_array_equal(csr.toarray(), expected)
    np.testing.assert_array_equal(csr.indices, [1, 0, 3])
    assert (csr.data.dtype, csr.indices.dtype, csr.indptr.dtype) == (np.float32, np.int32, np.int32)


def test_zero_values_are_dropped():
    csr = matrix("1\t2\t0\n3\t1\t5\n3\t4\t-0.0\n4\t1\t1e-60\n")
    assert csr.nnz == 1
    np.testing.assert_array_equal(csr.data, [5])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("1\t1\t1\n1\t1\t2\n", (2, 1)),
        ("2\t1\t1\n1\t1\t0\n1\t2\t1\n1\t1\t0\n", (4, 2)),
        ("5\t1\t1\n1\t1\t1\n2\t2\t1\n2\t2\t1\n5\t1\t1\n", (4, 3)),
    ],
)
def test_a_pair_that_comes_twice_is_named(text, lines):
    later, earlier = lines
    with pytest.raises(FileError, match=f"^n8-l7.tsv line {later}: the same row and column as line {earlier}$"):
        matrix(text)


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=FINITE))
def test_values_survive_text(values):
    index = np.zeros(values.size, np.int32)
    for short, exact in (("%e", "%.8e"), ("%g", "%.9g")):
        text = b"".join(format_tsv(Triples(index, index, values), short, exact))
        np.testing.assert_array_equal(parse(text).values.view(np.int32), values.view(np.int32))


def test_long_tables_are_formatted_in_pieces(monkeypatch):
    monkeypatch.setattr("taskgraph_dnn.io.tsv._LINES_AT_ONCE", 2)
    triples = Triples(np.arange(5), np.arange(5), np.arange(5, dtype=np.float32))
    assert list(format_tsv(triples, "%g", "%.9g")) == [b"1\t1\t0\n2\t2\t1\n", b"3\t3\t2\n4\t4\t3\n", b"5\t5\t4\n"]


@given(st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")), st.integers(1, 20))
def test_blocks_are_whole_lines_and_know_their_number(content, nbytes):
    blocks = list(line_blocks(io.BytesIO(content), nbytes))
    assert b"".join(block for _, block in blocks) == content
    assert all(block.endswith(b"\n") for _, block in blocks[:-1])
    line = 1
    for first, block in blocks:
        assert first == line
        line += block.count(b"\n")


def test_map_ahead_keeps_order_and_takes_few_items_ahead():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item * item, items())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) < 30
    assert list(results) == [item * item for item in range(3, 100)]


def test_map_ahead_ends_its_threads_when_a_result_fails():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda item: 1 // item, [2, 1, 0, 3]))
    assert threading.active_count() == before


IMAGES = "1\t1\t1\n3\t8\t0.5\n3\t2\t1\n"


@pytest.fixture
def images_file(tmp_path):
    path = tmp_path / "images.tsv"
    path.write_text(IMAGES)
    return path


def test_images_are_read(images_file):
    images = read_challenge_images(images_file, 8)
    expected = np.zeros((3, 8), np.float32)
    expected[0, 0], expected[2, 7], expected[2, 1] = 1, 0.5, 1
    np.testing.assert_array_equal(images.toarray(), expected)
    assert images.dtype == np.float32
    assert images.read_seconds > 0


def test_images_in_many_blocks_are_the_same(images_file, monkeypatch):
    monkeypatch.setattr(line_blocks, "__defaults__", (4,))
    images_file.write_text(IMAGES + "".join(f"{n}\t4\t{n}\n" for n in range(4, 100)))
    images = read_challenge_images(images_file, 8)
    np.testing.assert_array_equal(images.data[-96:], np.arange(4, 100))
    images_file.write_text(images_file.read_text() + "1\t9\t1\n")
    with pytest.raises(FileError, match="images.tsv line 100: pixel is 9"):
        read_challenge_images(images_file, 8)


def test_samples_say_how_many_images(images_file):
    assert read_challenge_images(images_file, 8, samples=5).shape == (5, 8)
    with pytest.raises(FileError, match=r"^images.tsv line 2: image is 3, expected 1 to 2 \(the samples asked for\)$"):
        read_challenge_images(images_file, 8, samples=2)


def test_a_pixel_that_the_network_has_not_is_named(images_file):
    with pytest.raises(FileError, match=r"^images.tsv line 2: pixel is 8, expected 1 to 7 \(the network's inputs\)$"):
        read_challenge_images(images_file, 7)


def test_an_image_number_beyond_all_bounds_is_refused(images_file):
    images_file.write_text("3000000000\t1\t1\n")
    with pytest.raises(FileError, match="line 1: image is 3000000000, expected 1 to 2147483647"):
        read_challenge_images(images_file, 8)


def test_an_image_number_that_is_hardly_meant_is_questioned(images_file):
    images_file.write_text("1\t1\t1\n2000000000\t2\t1\n")
    with pytest.raises(FileError, match="image 2000000000 in a file of 2 pixels is hardly meant.*samples=2000000000"):
        read_challenge_images(images_file, 2)


def test_no_images_need_samples(images_file):
    images_file.write_text("")
    with pytest.raises(InputError, match="images.tsv holds no image"):
        read_challenge_images(images_file, 8)
    images = read_challenge_images(images_file, 8, samples=4)
    assert (images.shape, images.nnz, images.dtype) == ((4, 8), 0, np.float32)


@pytest.mark.parametrize(("neurons", "samples", "named"), [(0, None, "neurons is 0"), (8, -1, "samples is -1")])
def test_sizes_must_be_positive(images_file, neurons, samples, named):
    with pytest.raises(InputError, match=f"{named}, expected at least 1"):
        read_challenge_images(images_file, neurons, samples)


@pytest.mark.parametrize("library", [streams._gzip, gzip])
def test_a_damaged_or_missing_compressed_file_is_named(library, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_gzip", library)
    path = tmp_path / "images.tsv.gz"
    with pytest.raises(FileError, match=f"cannot read {path}: .*No such file"):
        read_challenge_images(path, 8)
    content = gzip.compress(IMAGES.encode() * 100)
    flipped = content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]
    for damaged in (content[:-1], content[: len(content) // 2], b"no gzip", flipped):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=f"cannot read {path}: "):
            read_challenge_images(path, 8, samples=3)


def test_compressed_files_are_read_without_isal():
    code = "import sys; sys.modules['isal'] = None; from taskgraph_dnn.io import streams; print(streams._gzip.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "gzip\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_images_survive_a_file(tmp_path, rng, name):
    dense = (rng.standard_normal((20, 8)) * (rng.random((20, 8)) < 0.4)).astype(np.float32)
    dense[-1, 0] = 1
    write_challenge_images(dense, tmp_path / name)
    np.testing.assert_array_equal(read_challenge_images(tmp_path / name, 8).toarray(), dense)
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b"1\t")


def test_equal_images_give_equal_compressed_bytes(tmp_path):
    for name in ("a.tsv.gz", "b.tsv.gz"):
        write_challenge_images(np.eye(3), tmp_path / name)
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()


def test_images_that_no_file_can_hold_leave_none(tmp_path):
    for value in (np.nan, 1e300):
        with pytest.raises(InputError, match=r"pixel 2 of sample 1 is (nan|inf), expected a finite float32"):
            write_challenge_images(np.array([[0, 0, 1], [0, 0, value]]), tmp_path / "a.tsv")
    for images in (np.ones(3), [["a"]], scipy.sparse.csr_array([[1j]])):
        with pytest.raises(InputError, match="images (have shape|are of type)"):
            write_challenge_images(images, tmp_path / "a.tsv")
    assert list(tmp_path.iterdir()) == []


def test_the_official_images_survive(official_data, tmp_path):
    source = official_data / "graph-challenge" / "sparse-images-1024-first1200.tsv.gz"
    images = read_challenge_images(source, 1024)
    assert images.shape == (1200, 1024)
    assert set(images.data.tolist()) == {1.0}
    write_challenge_images(images, tmp_path / "images.tsv")
    assert (tmp_path / "images.tsv").read_bytes() == gzip.decompress(source.read_bytes())


def test_categories_are_read_from_one_and_sorted(tmp_path):
    path = tmp_path / "categories.tsv"
    path.write_text("7\n1\n3\r\n")
    categories = read_categories(path)
    np.testing.assert_array_equal(categories, [0, 2, 6])
    assert categories.dtype == np.int64
    path.write_text("")
    assert read_categories(path).size == 0


@pytest.mark.parametrize("line", ["0", "-1", "1.5", "abc", "", "1\t1", " 1", "0x1", "１", "9" * 30])
def test_a_bad_category_is_named(tmp_path, line):
    path = tmp_path / "categories.tsv"
    path.write_text(f"7\n{line}\n9\n")
    with pytest.raises(FileError, match="^categories.tsv line 2: .*, expected a number from 1 and a newline$"):
        read_categories(path)


def test_a_category_cut_off_or_twice_is_named(tmp_path):
    path = tmp_path / "categories.tsv"
    path.write_text("7\n12")
    with pytest.raises(FileError, match="line 2: '12', expected a number from 1 and a newline"):
        read_categories(path)
    path.write_text("7\n12\n007\n")
    with pytest.raises(FileError, match="line 3: 7 is on line 1 already"):
        read_categories(path)
    with pytest.raises(FileError, match="cannot read .*absent"):
        read_categories(tmp_path / "absent")


@given(st.sets(st.integers(0, 2**40)))
def test_categories_survive_a_file(tmp_path_factory, categories):
    path = tmp_path_factory.mktemp("categories") / "c.tsv"
    write_categories(list(categories), path)
    assert read_categories(path).tolist() == sorted(categories)


@pytest.mark.parametrize("categories", [[-1], [0.5], [1, 1]])
def test_categories_that_are_none_leave_no_file(tmp_path, categories):
    with pytest.raises(InputError, match="categories"):
        write_categories(categories, tmp_path / "c.tsv")
    assert list(tmp_path.iterdir()) == []


def test_the_official_categories_are_read(official_data):
    categories = read_categories(official_data / "graph-challenge" / "neuron1024-l120-categories.tsv")
    assert categories.size == 1812
    assert (categories < 1200).sum() == 19
