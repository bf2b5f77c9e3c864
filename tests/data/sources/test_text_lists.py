"""Lists, labels and class names in text files as programs write them."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.data.annotations.json_stream import stream_object
from itpn_ray.data.sources.base import Listing
from itpn_ray.data.sources.detect import open_source
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.data.sources.lists import read_classes, read_labels
from itpn_ray.data.sources.text import read_lines
from itpn_ray.errors import DataError
from tests.data.made_files import config, write_folders

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16 big-endian without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}


def listed(folder: Path, text: str | bytes, name: str = "list.csv", **fields: Any) -> Listing:
    """What a list of ``img/000.jpg`` to ``img/005.jpg`` gives."""
    write_folders(folder, {"img": 6})
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(config(path, folder.parent / "out", **fields))[1].listing()


def labels(listing: Listing) -> list[tuple[str, str]]:
    """(path, class) of all rows."""
    rows = [row for table in listing.splits.values() for row in table.to_pylist()]
    return sorted((row["path"], listing.classes[row["label"]]) for row in rows)


LABELS = ["cat", "dog", "cat", "dog", "cat", "dog"]
ROWS = [(f"img/{n:03d}.jpg", label) for n, label in enumerate(LABELS)]
PLAIN = "\n".join(["path,label", *map(",".join, ROWS)])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    encode = ENCODINGS[encoding]
    assert labels(listed(tmp_path, encode(PLAIN))) == ROWS
    path = tmp_path / "classes.txt"
    path.write_bytes(encode("tench\r\ngreat white shark\r\n"))
    assert read_classes(str(path)) == ("tench", "great white shark")
    path.write_bytes(encode('{"images": [{"id": 1}]}'))
    with path.open("rb") as stream:
        assert list(stream_object(stream)) == [("images", {"id": 1})]


FORMS = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "a spreadsheet's hint": "sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"),
    "old Mac ends": PLAIN.replace("\n", "\r"),
    "quotes": "\n".join(['"path","label"', *(f'"{path}", "{label}"' for path, label in ROWS)]),
    "blanks": "\n".join(
        [" path , label ", *(f"{path} , {label} " for path, label in ROWS), "", " "]
    ),
    "case": PLAIN.replace("path,label", "Image_Path,CLASS NAME"),
    "category": PLAIN.replace("path,label", "filename,category"),
    "target": PLAIN.replace("path,label", "file,Target"),
    "order": "\n".join(["label,width,image", *(f"{label},3,{path}" for path, label in ROWS)]),
    "empty last fields": PLAIN.replace("\n", ",\n").replace("label,\n", "label\n"),
    "no header": PLAIN.removeprefix("path,label\n"),
    "no header, blanks": PLAIN.removeprefix("path,label\n").replace(",", " "),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_list(tmp_path: Path, form: str) -> None:
    assert labels(listed(tmp_path, FORMS[form])) == ROWS


@pytest.mark.parametrize("name", ["list.tsv", "list.txt", "LIST.CSV"])
def test_names_of_a_list(tmp_path: Path, name: str) -> None:
    assert labels(listed(tmp_path, PLAIN.replace(",", "\t"), name)) == ROWS


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: "D:\\data\\" + path.replace("/", "\\"),
        lambda path: "/home/someone/data/" + path,
        lambda path: "./" + path,
        lambda path: "C:/other/" + path,
    ],
)
def test_paths_of_another_machine(tmp_path: Path, write: Callable[[str], str]) -> None:
    found = listed(tmp_path, "\n".join(["path,label", *(f"{write(p)},{c}" for p, c in ROWS)]))
    files = [file for table in found.splits.values() for file in table.column("file").to_pylist()]
    assert all(Path(file).is_file() for file in files)
    assert len(files) == 6


@pytest.mark.parametrize("header", ["path\n", "", "\ufeffImage\n"])
def test_names_with_blanks_in_a_list_without_labels(tmp_path: Path, header: str) -> None:
    found = listed(tmp_path, header + "img/my cat 1.jpg\nimg/dog.jpg\n")
    assert found.splits["train"].column("path").to_pylist() == ["img/my cat 1.jpg", "img/dog.jpg"]


WORDS = ["train", "train", "TRAIN", "Validation", "val", "test"]


@pytest.mark.parametrize("header", ["split", "Set", "subset", "partition", "something"])
def test_a_column_of_splits(tmp_path: Path, header: str) -> None:
    rows = [f"{path},{label},{split}" for (path, label), split in zip(ROWS, WORDS, strict=True)]
    found = listed(tmp_path, "\n".join([f"path,label,{header}", *rows]))
    assert {split: len(table) for split, table in found.splits.items()} == {
        "train": 3,
        "val": 2,
        "test": 1,
    }
    assert header in found.origins["val"]


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("is_valid", ["False"] * 5 + ["True"], {"train": 5, "val": 1}),
        ("isTest", ["0"] * 4 + ["1"] * 2, {"train": 4, "test": 2}),
        ("is_training_image", ["1"] * 4 + ["0"] * 2, {"train": 4, "val": 2}),
        ("is_val,is_test", ["0,0"] * 3 + ["1,0", "0,1", "0,1"], {"train": 3, "val": 1, "test": 2}),
    ],
)
def test_columns_that_are_true_in_one_split(
    tmp_path: Path, header: str, cells: list[str], expected: dict[str, int]
) -> None:
    rows = [f"{path},{label},{cell}" for (path, label), cell in zip(ROWS, cells, strict=True)]
    found = listed(tmp_path, "\n".join([f"fname,label,{header}", *rows]))
    assert {split: len(table) for split, table in found.splits.items()} == expected


def test_folders_of_a_list_tell_splits(tmp_path: Path) -> None:
    write_folders(tmp_path, {"img/Train": 2, "img/test": 2})
    rows = [f"img/{s}/{n:03d}.jpg,{'ab'[n]}" for s in ("Train", "test") for n in range(2)]
    found = listed(tmp_path, "\n".join(["path,label", *rows]))
    assert {split: len(table) for split, table in found.splits.items()} == {"train": 2, "test": 2}
    with pytest.raises(
        DataError, match=r"others do not; there are img/Train, img/test, img.*--spl"
    ):
        listed(tmp_path, "\n".join(["path,label", *rows, "img/001.jpg,a"]))
    given = ("train=img/Train", "val=test")
    found = listed(tmp_path, "\n".join(["path,label", *rows]), splits=given)
    assert {split: len(table) for split, table in found.splits.items()} == {"train": 2, "val": 2}


def test_given_names_of_splits(tmp_path: Path) -> None:
    words = ["A", "A", "B", "B", "C", "A"]
    rows = [f"{path},{label},{split}" for (path, label), split in zip(ROWS, words, strict=True)]
    text = "\n".join(["path,label,split", *rows])
    found = listed(tmp_path, text, splits=("train=a", "val=B"))
    assert {split: len(table) for split, table in found.splits.items()} == {"train": 3, "val": 2}
    assert found.skipped == (
        ("img/004.jpg", "left out: line 6 of the list is in no split that --splits names"),
    )
    with pytest.raises(DataError, match=r"line 2 = 'A': is no split; the list has 'A', 'B', 'C'"):
        listed(tmp_path, text)


@pytest.mark.parametrize("nothing", ["", "-1", "nan", "-1.0"])
def test_rows_without_a_label_are_left_out_and_listed(tmp_path: Path, nothing: str) -> None:
    found = listed(tmp_path, PLAIN.replace("img/001.jpg,dog", f"img/001.jpg,{nothing}"))
    assert labels(found) == [row for row in ROWS if row[0] != "img/001.jpg"]
    assert [path for path, _ in found.skipped] == ["img/001.jpg"]
    assert "line 3" in found.skipped[0][1]
    assert "1 of 6 rows" in found.notes[-1]


@pytest.mark.parametrize(
    ("numbers", "classes"),
    [
        ([1, 2, 1, 2, 1, 2], ("1", "2")),
        ([0, 2_000_000, 7, 7, 0, 7], ("0", "7", "2000000")),
        (["1.0", "2.0", "1.0", "10.0", "2.0", "1.0"], ("1", "2", "10")),
        (["01", "9" * 30, "1", "2", "2", "2"], ("1", "2", "9" * 30)),
    ],
)
def test_numbers_as_labels(tmp_path: Path, numbers: list[Any], classes: tuple[str, ...]) -> None:
    rows = [f"{path},{n}" for (path, _), n in zip(ROWS, numbers, strict=True)]
    found = listed(tmp_path, "\n".join(["path,label", *rows]))
    assert found.classes == classes
    assert [int(label) for _, label in labels(found)] == [
        int(float(n)) if "." in str(n) else int(n) for n in numbers
    ]


def test_numbers_are_positions_in_a_list_of_classes() -> None:
    names = ("a", "b", "c")
    assert label_numbers([0, 2], names, "x")[1].tolist() == [0, 2]
    assert label_numbers(["1", "3"], names, "x")[1].tolist() == [0, 2]  # from 1
    assert label_numbers(["3", "2"], ("3", "2"), "x")[1].tolist() == [0, 1]  # their names
    for found in ([0, 3], [4], [-1, 0]):
        with pytest.raises(DataError, match="none of the 3 classes"):
            label_numbers(found, names, "x")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            PLAIN.replace("001.jpg,dog", "001.jpg,-2").replace("dog", "1").replace("cat", "0"),
            "line 3: the label '-2'",
        ),
        (
            PLAIN.replace("path,label", "path,breed"),
            "has path, breed, of which none is called label",
        ),
        (PLAIN.replace("path,label", "url,label").replace(".jpg", ""), "has no column 'path'"),
        (PLAIN + "\nimg/005.jpg", "line 8: has 1 field where others have 2"),
        (PLAIN + ",more", "line 7: has 3 fields where others have 2"),
        (PLAIN + '\n"img/000.jpg,cat', "line 8: cannot be read"),
        (PLAIN.replace("dog", "").replace("cat", "-1"), "gives no image a label"),
        (PLAIN.replace("dog", "W\xe4").encode("latin-1"), "line 3: is not UTF-8 text .byte 0xe4"),
        ("path,label\0", "zero bytes"),
        ("", "lists no images"),
        ("path,label\n", "lists no images"),
        (f"path\n{'x' * 300}.jpg\n", "left out: no file can have the long name in line 2"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, text: str | bytes, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        listed(tmp_path, text)


def test_names_that_no_file_can_have_are_listed(tmp_path: Path) -> None:
    found = listed(tmp_path, PLAIN + f"\n{'x' * 256}.jpg,cat\n{'x/' * 600}.jpg,dog")
    assert labels(found) == ROWS
    assert [reason.partition(" in ")[2] for _, reason in found.skipped] == [
        "line 8 of the list",
        "line 9 of the list",
    ]


def test_errors_stay_in_one_line(tmp_path: Path) -> None:
    for text in ('"a","b\nc"\n', 'path,label\n1.jpg,"a\nb"\n', 'path,"set\nx"\n1.jpg,"a\nb"\n'):
        with pytest.raises(DataError) as caught:
            listed(tmp_path, text)
        assert "\n" not in str(caught.value)


def test_a_label_that_is_no_class_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\nbird\n")
    with pytest.raises(DataError, match=r"line 3: the label 'dog' is none of the 2 classes"):
        listed(tmp_path, PLAIN, classes=str(tmp_path / "classes.txt"))


CLASS_LISTS = {
    "plain": "great white shark\n\ntench, Tinca tinca\n3 dogs\n",
    "numbered": "0 great white shark\n1 tench, Tinca tinca\n2 3 dogs\n",
    "from 1": "1\tgreat white shark\n2\ttench, Tinca tinca\n3\t3 dogs\n",
    "unordered": "2;3 dogs\n0;great white shark\n1;tench, Tinca tinca\n",
    "header": 'id,name\n0,great white shark\n1,"tench, Tinca tinca"\n2,3 dogs\n',
    "numbers last": "great white shark,0\ntench, Tinca tinca,1\n3 dogs,2\n",
}


@pytest.mark.parametrize("form", CLASS_LISTS)
def test_lists_of_classes(tmp_path: Path, form: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(CLASS_LISTS[form])
    assert read_classes(str(path)) == ("great white shark", "tench, Tinca tinca", "3 dogs")


@pytest.mark.parametrize("form", ["{0} {1}", "{2} {0} {1}", "{0}\t{1}", "{0}"])
def test_lists_of_synsets(tmp_path: Path, form: str) -> None:
    path = tmp_path / "LOC_synset_mapping.txt"
    synsets = [("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish")]
    path.write_text("\n".join(form.format(*row, n) for n, row in enumerate(synsets)))
    assert read_classes(str(path)) == ("n01440764", "n01443537")


NAMES = ["val/000.jpg", "val/my cat.jpg"]
LABEL_LISTS = {
    "commas": "000.jpg,tabby cat\nmy cat.jpg,dog\n",
    "tabs and more columns": "my cat.jpg\tdog\t0\t62\n000.jpg\ttabby cat\t3\t9\n",
    "header": "label;image\ntabby cat;000.jpg\ndog;my cat.jpg\n",
    "quotes": '"000.jpg", "tabby cat"\n"my cat.jpg", "dog"\n',
    "no suffixes": "000,tabby cat\nmy cat,dog\n",
    "other folders": "C:\\x\\000.jpg,tabby cat\nC:\\x\\my cat.jpg,dog\n",
    "one a line": "tabby cat\ndog\n",
}


@pytest.mark.parametrize("form", LABEL_LISTS)
@pytest.mark.parametrize("encoding", ["UTF-8 with a mark", "UTF-16"])
def test_lists_of_labels(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(ENCODINGS[encoding](LABEL_LISTS[form]))
    assert read_labels(str(path), NAMES) == ["tabby cat", "dog"]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Marks that some programs take for the end of a line are part of a name."""
    (tmp_path / "x.txt").write_text("a\u2028b\n\n c\x0bd \n")
    assert read_lines(str(tmp_path / "x.txt")) == ["a\u2028b", "c\x0bd"]
