from pathlib import Path

import pytest

from lookalike.catalogue import read_catalogue
from lookalike.errors import SetupError
from tests.colour_embedder import save_picture


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SetupError) as refused:
        read_catalogue(path)
    return refused.value.message


def test_a_folders_images_are_items_named_by_their_path(tmp_path: Path) -> None:
    save_picture(tmp_path / "fruit" / "red" / "apple.PNG", 1)
    save_picture(tmp_path / "plain.png", 2)
    catalogue = read_catalogue(tmp_path)
    assert [(item.item_id, item.attributes) for item in catalogue.items] == [
        ("plain.png", {}),
        ("fruit/red/apple.PNG", {"category": "fruit", "subcategory": "red"}),
    ]


def test_folder_levels_can_be_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "fruit" / "red" / "apple.png", 1)
    assert read_catalogue(tmp_path, ["kind"]).items[0].attributes == {"kind": "fruit"}


def test_the_first_line_of_the_text_beside_an_image_is_its_title(tmp_path: Path) -> None:
    save_picture(tmp_path / "apple.png", 1)
    write(tmp_path / "apple.txt", "An apple.\nfr.utf8=Une pomme.\n")
    assert read_catalogue(tmp_path).items[0].title == "An apple."


def test_other_files_of_a_folder_are_counted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    save_picture(tmp_path / "apple.png", 1)
    save_picture(tmp_path / ".thumbnails" / "apple.png", 1)
    write(tmp_path / "drawing.svg", "<svg/>")
    write(tmp_path / "note.dat", "x")
    catalogue = read_catalogue(tmp_path)
    assert (len(catalogue.items), catalogue.ignored) == (1, 2)


def test_a_file_name_that_cannot_be_printed_becomes_an_id_of_one_line(tmp_path: Path) -> None:
    save_picture(tmp_path / "plain.png", 1).rename(tmp_path / "two\nlines.png")
    assert read_catalogue(tmp_path).items[0].item_id == "two\\nlines.png"


def test_a_table_gives_ids_titles_urls_and_attributes(tmp_path: Path) -> None:
    table = write(tmp_path / "items.csv", "path,item_id,title,url,colour\na.jpg,Ä 1,Apfel,http://x/1,red\nb.jpg,2,,,\n")
    first, second = read_catalogue(table).items
    assert (first.item_id, first.title, first.url, first.attributes) == (
        "Ä 1",
        "Apfel",
        "http://x/1",
        {"colour": "red"},
    )
    assert first.path == tmp_path / "a.jpg"
    assert (second.title, second.url, second.attributes) == (None, None, {})


def test_json_lines_give_the_same_and_numbers_become_text(tmp_path: Path) -> None:
    lines = write(tmp_path / "items.jsonl", '{"path": "a.jpg", "item_id": "1", "year": 2012, "title": null}\n\n')
    (item,) = read_catalogue(lines).items
    assert (item.item_id, item.title, item.attributes) == ("1", None, {"year": "2012"})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("path,title\na.jpg,A\n", ":1: lacks the columns: item_id"),
        ("path,item_id\na.jpg,1\nb.jpg,1\n", ":3: item_id '1' was given in line 2 already"),
        ('path,item_id\n"a\nb.jpg",1\nc.jpg,\n', ":4: item_id is missing or empty"),
        ("path,item_id\na.jpg,1,extra\n", ":2: 3 values for 2 columns"),
        ("path,item_id,path\n", ":1: a column has no name or the name of another"),
        ("", ":1: lacks the columns: path, item_id"),
        ('path,item_id\n"a.jpg,1\n', "unexpected end of data"),
        ("path,item_id\na.jpg,a\x07b\n", ":2: item_id 'a\\x07b' holds characters that cannot be printed"),
    ],
)
def test_a_wrong_table_is_refused_by_file_and_line(tmp_path: Path, text: str, wrong: str) -> None:
    message = refusal(write(tmp_path / "items.csv", text))
    assert "items.csv" in message
    assert wrong in message


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", ":2: is no JSON"),
        ("[1]", ":2: is no JSON object"),
        ('{"path": "b.jpg"}', ":2: item_id is missing or empty"),
        ('{"path": "b.jpg", "item_id": "1"}', ":2: item_id '1' was given in line 1 already"),
        ('{"path": "b.jpg", "item_id": "2", "tags": ["x"]}', ":2: tags is a list"),
        (r'{"path": "b.jpg", "item_id": "2", "title": "\ud800"}', ":2: 'title' holds half a character"),
        (r'{"path": "b.jpg", "item_id": "2", "\ud800": "x"}', r":2: '\ud800' holds half a character"),
        ("[" * 100_000, ":2: cannot be read: maximum recursion depth"),
        ('{"path": "b.jpg", "item_id": ' + "1" * 5000 + "}", ":2: cannot be read: Exceeds the limit"),
    ],
)
def test_wrong_json_lines_are_refused_by_file_and_line(tmp_path: Path, line: str, wrong: str) -> None:
    assert wrong in refusal(write(tmp_path / "items.jsonl", f'{{"path": "a.jpg", "item_id": "1"}}\n{line}\n'))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"path,item_id\n\xff\xfe,1\n")
    assert "is not UTF-8 text" in refusal(tmp_path / "items.csv")


def test_an_unknown_kind_of_source_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as refused:
        read_catalogue(write(tmp_path / "items.xlsx", ""))
    assert ".csv" in (refused.value.allowed or ())


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
