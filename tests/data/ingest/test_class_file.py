"""Law: a classes file of any common form gives the names and colours that its author meant, or is
refused with the line's number. No class is renamed, shifted or left out in silence.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.class_file import read_classes
from tests.helpers.image_tables import prepare_folder, random_mask, write_folders

COLORS = [[64, 128, 64], [192, 0, 128]]
NAMES = ["Animal", "Traffic Light"]


def written(folder: Path, content: str | bytes, name: str = "classes.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


FORMS_WITH_COLORS = {
    "name r g b": "Animal 64 128 64\nTraffic Light 192 0 128\n",
    "name r, g, b": "Animal 64, 128, 64\nTraffic Light 192, 0, 128\n",
    "CamVid": "64 128 64\tAnimal\n192 0 128\t\tTraffic Light\n",
    "CVAT": "# label:color_rgb:parts:actions\nAnimal:64,128,64::\nTraffic Light:192,0,128:a,b:c\n",
    "commas": "Animal,64,128,64\nTraffic Light,192,0,128\n",
    "semicolons": "Animal;64;128;64\nTraffic Light; 192; 0; 128\n",
    "tabs": "Animal\t64\t128\t64\nTraffic Light\t\t192\t0\t128\n",
    "quotes": '"Animal",64,128,64\n"Traffic Light",192,0,128\n',
    "hex": "Animal #408040\nTraffic Light #c00080\n",
    "hex first": "#408040 Animal\n#C00080 Traffic Light\n",
    "header": "name,r,g,b\nAnimal,64,128,64\nTraffic Light,192,0,128\n",
    "header, class last": "r,g,b,class\n64,128,64,Animal\n192,0,128,Traffic Light\n",
    "header, ids first": "id,r,g,b,name\n0,64,128,64,Animal\n1,192,0,128,Traffic Light\n",
    "header, other order": "Class,B,G,R,parent\nAnimal,64,128,64,x\nTraffic Light,128,0,192,y\n",
    "header, hex": "name;color\nAnimal;#408040\nTraffic Light;#c00080\n",
    "header, tabs": "name\tr\tg\tb\nAnimal\t64\t128\t64\nTraffic Light\t192\t0\t128\n",
    "id, name": "0,Animal,64,128,64\n1,Traffic Light,192,0,128\n",
    "Windows": "Animal 64 128 64\r\n\r\nTraffic Light 192 0 128\r\n",
    "comments": "# all\nAnimal 64 128 64 # fur\n  # none\nTraffic Light 192 0 128\n",
}
FORMS_OF_NAMES = {
    "plain": "Animal\nTraffic Light\n",
    "id name": "0 Animal\n1 Traffic Light\n",
    "id: name": "0: Animal\n1: Traffic Light\n",
    "id tab name": "0\tAnimal\n1\tTraffic Light",
    "name,id": "Animal,0\nTraffic Light,1\n",
    "header": "id,name\n0,Animal\n1,Traffic Light\n",
    "header of one cell": "name\nAnimal\nTraffic Light\n",
    "CVAT without colours": "Animal:::\nTraffic Light:::\n",
}


@pytest.mark.parametrize("form", FORMS_WITH_COLORS)
def test_forms_with_colors(tmp_path: Path, form: str) -> None:
    classes = read_classes(written(tmp_path, FORMS_WITH_COLORS[form]))
    assert (classes.names, classes.colors, classes.has_colors) == (NAMES, COLORS, True)
    assert bool(classes.notes) == form.startswith("header")


@pytest.mark.parametrize("form", FORMS_OF_NAMES)
def test_forms_of_names(tmp_path: Path, form: str) -> None:
    classes = read_classes(written(tmp_path, FORMS_OF_NAMES[form]))
    assert (classes.names, classes.has_colors) == (NAMES, False)
    assert classes.colors == default_colors(2)


@pytest.mark.parametrize(
    "names",
    [
        ["C#", "F#"],
        ["lane 2", "lane 3"],
        ["class 0", "class 1"],
        ["wall, building", "sky"],
        ["3D printer", "2 wheeler"],
        ["a:b", "c"],
        ["0", "1"],
        ["C#7", "x#y"],
    ],
)
def test_odd_names_stay_as_they_are(tmp_path: Path, names: list[str]) -> None:
    assert read_classes(written(tmp_path, "\n".join(names))).names == names


def test_hash_starts_a_comment_only_at_the_start_or_after_a_space(tmp_path: Path) -> None:
    path = written(tmp_path, "#first\nC# # a language\nroad#1\n  # last\n")
    assert read_classes(path).names == ["C#", "road#1"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, "Straße 1 2 3\nHäuser 4 5 6\n".encode(encoding))
    classes = read_classes(path)
    assert classes.names == ["Straße", "Häuser"]
    assert classes.colors == [[1, 2, 3], [4, 5, 6]]
    guessed = [("classes files in Latin-1, because they are not UTF-8", str(path))]
    assert list(classes.notes) == (guessed if encoding in ("latin-1", "cp1252") else [])


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"], ids=["little", "big"])
def test_utf_16_of_either_byte_order(tmp_path: Path, mark: bytes) -> None:
    encoding = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    assert read_classes(written(tmp_path, mark + "a\nü\n".encode(encoding))).names == ["a", "ü"]


def test_guess_of_encoding_is_told_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i) for i in range(5)])
    path = written(tmp_path, "a\nb\nStraße\n".encode("latin-1"))
    table = prepare_folder(root, "--classes", path, classes=None)
    assert table.classes[2] == "Straße"
    assert "guessed: 1 classes files in Latin-1" in capsys.readouterr().out


REFUSED = {
    "colour twice": (
        "a 1 2 3\nb 4 5 6\nc 1 2 3\n",
        "line 3: c has the colour 1 2 3 of a in line 1",
    ),
    "name twice": ("a\nb\na\n", "line 3: names a twice, line 1 has it too"),
    "channel above 255": ("a 1 2 3\nb 1 2 256\n", "line 2: 'b 1 2 256' has a colour above 255"),
    "channel above 255, CVAT": ("a:1,2,256::\n", "line 1: 'a:1,2,256::' has a colour above 255"),
    "negative channel": ("a -1 2 3\n", "line 1: 'a -1 2 3' has a colour that is not three whole"),
    "fractions": ("a 0.1 0.2 0.3\n", "not three whole numbers"),
    "one without colour": ("a 1 2 3\n\nb\n", "line 3: 'b' has no colour, other lines have one"),
    "one with colour": ("a\nb\n#facade of houses\n", "line 3: '#facade of houses' has a colour"),
    "a colour alone": ("a\n#facade\n", "line 2: '#facade' is a colour without a name"),
    "first without colour": ("a\nb 1 2 3\n", "line 1: 'a' has no colour, other lines have one"),
    "alpha": ("a 1 2 3 255\nb 4 5 6 255\n", "a colour is three, without alpha"),
    "four numbers": ("0 1 2 3\n4 5 6 7\n", "line 1: '0 1 2 3' may be `name r g b` or"),
    "ids from 1": ("1 a\n2 b\n", "has id 1 where 0 is due"),
    "ids from 1, remedy": ("1 a\n2 b\n", "import with --first-id 1"),
    "ids with a gap": ("0 a\n2 b\n", "line 2: '2 b' has id 2 where 1 is due"),
    "id missing": ("0 a\n1 b\nc\n", "line 3: 'c' does not begin with an id"),
    "cells missing": ("name,r,g,b\na,1,2,3\nb,1,2\n", "line 3: 'b,1,2' has 3 cells"),
    "ADE20K's table": ("Idx,Ratio,Name\n1,0.15,wall\n", "line 2: '1,0.15,wall' has id 1"),
    "header alone": ("name,r,g,b\n", "names no class"),
    "no hex": ("name,color\na,red\n", "has no colour of the form #rrggbb"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_line_and_rule(tmp_path: Path, kind: str) -> None:
    text, message = REFUSED[kind]
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["json", "yaml", "xml"])
def test_file_of_another_kind_is_refused_with_the_form_to_write(
    tmp_path: Path, suffix: str
) -> None:
    path = written(tmp_path, '{"a": 1}', f"classes.{suffix}")
    with pytest.raises(InputError, match=rf"is {suffix.upper()}; write a text file .*`name r g b`"):
        read_classes(path)


letters = st.characters(categories=["L"])
names = st.lists(
    st.tuples(
        st.text(letters, min_size=1, max_size=8), st.sampled_from(["", "#", " x", "+y", "-3"])
    ),
    min_size=1,
    max_size=20,
    unique=True,
).map(lambda parts: list(dict.fromkeys(a + b for a, b in parts)))
SEPARATORS = [" ", "\t", "\t\t", ",", ", ", ";", " ; "]


@given(
    names=names,
    seed=st.randoms(use_true_random=False),
    gap=st.sampled_from(SEPARATORS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    form=st.sampled_from(["first", "last", "hex", "cvat", "none"]),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_names_and_colors_come_back(
    tmp_path: Path, names: list[str], seed: object, gap: str, encoding: str, form: str
) -> None:
    rows = seed.sample(range(1 << 24), len(names))  # type: ignore[attr-defined]
    colors = [list(row.to_bytes(3, "big")) for row in rows]
    lines = []
    for name, color in zip(names, colors, strict=True):
        numbers = gap.join(map(str, color))
        lines.append(
            {
                "first": f"{name}{gap}{numbers}",
                "last": f"{numbers}{gap}{name}",
                "hex": f"{name}{gap}#{bytes(color).hex()}",
                "cvat": f"{name}:{','.join(map(str, color))}::",
                "none": name,
            }[form]
        )
    classes = read_classes(written(tmp_path, "\n".join(lines).encode(encoding)))
    assert classes.names == names or classes.notes  # a name may look like a header
    if form != "none":
        assert classes.colors == colors
