"""The encoder, the dictionary and the data format agree with fairseq's on whatever comes."""

import importlib.util
import unicodedata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.binarize.binarizer import Binarizer
from components.binarize.bpe import Encoder, byte_characters, read_encoder
from components.binarize.indexed import Writer, token_type
from components.common.dictionary import Dictionary, read_dictionary
from components.common.errors import DataError

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

PHRASES = [
    *("'s", "'ll", "'LL", "'re", "n't", "\u2019s", "''", "_", "...", "--", " ", "  ", " " * 40),
    *("<|endoftext|>", "<s>", "</s>", "<unk>", "<mask>", "madeupword0000", "Ġ", "Ċ", "#version"),
    *(
        "\u0301",
        "\u200d",
        "\ufe0f",
        "👩‍👩‍👧",
        "🏳️‍🌈",
        "é",
        "e\u0301",
        "ﬁ",
        "ǅ",
        "İ",
        "ß",
        "中文",
        "ไทย",
    ),
    *("1", "½", "²", "Ⅷ", "٣", "\u0378", "\U000e0001", "\U0010ffff", "\ufffe", "\ufeff"),
    *("\0", "\t", "\x0b", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\xad", "\u1680", "\u2028"),
    *("\u200b", "\u2003", "\u202f", "\u3000", "the", " the", "Hello", " world", "xyzzy" * 9),
]
LINES = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.lists(st.sampled_from(PHRASES), max_size=12).map("".join),
        st.lists(st.one_of(st.sampled_from(PHRASES), st.text(max_size=3)), max_size=12).map(
            "".join
        ),
    ).map(
        lambda text: "".join(c for c in text if c not in "\r\n" and not "\ud800" <= c <= "\udfff")
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def gpt2_bpe_utils() -> ModuleType:
    """fairseq's encoder, loaded alone: it needs neither torch nor the rest of fairseq."""
    package = importlib.util.find_spec("fairseq")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "data" / "encoders" / "gpt2_bpe_utils.py"
    spec = importlib.util.spec_from_file_location("gpt2_bpe_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["tiny", "real"])
def encoders(request: pytest.FixtureRequest, gpt2_bpe_utils: ModuleType):
    """Our encoder and fairseq's for the same vocabulary."""
    name = {"tiny": "tiny_bpe", "real": "shared_data"}[request.param]
    folder: Path = request.getfixturevalue(name)
    paths = folder / "encoder.json", folder / "vocab.bpe"
    return read_encoder(*paths), gpt2_bpe_utils.get_encoder(*map(str, paths))


def expected(reference, newline: int, lines: list[str]) -> list[int]:
    return [i for line in lines for i in (*reference.encode(line), newline)]


def stripped(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip()]


@settings(SETTINGS, max_examples=1000)
@given(lines=LINES)
@example(lines=["'s", "'S it's", "a  b   c", "1a1", "<|endoftext|>", "\x1ca\x1c b"])
def test_encoder_gives_fairseqs_ids(encoders, lines: list[str]) -> None:
    ours, reference = encoders
    lines = stripped(lines)
    found = ours.encode([line.encode() for line in lines]).tolist()
    assert found == expected(reference, ours.newline, lines)


def around(code: int) -> str:
    """A line in which the code point follows a letter, a digit, a mark, a space and itself."""
    c = chr(code)
    return f"a{c}b1{c}2.{c},{c}{c} {c}a {c}1 {c} ."


def code_points() -> list[int]:
    return [
        code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code not in (10, 13)
    ]


def assert_same_ids(encoders, codes: list[int]) -> None:
    ours, reference = encoders
    lines = [around(code) for code in codes]
    found = ours.encode([line.encode() for line in lines])
    ends = np.flatnonzero(found == ours.newline)
    each = np.split(found, ends + 1)
    wrong = [
        f"U+{code:04X}"
        for code, line, ids in zip(codes, lines, each, strict=False)
        if ids.tolist() != [*reference.encode(line), ours.newline]
    ]
    assert len(ends) == len(codes)
    assert wrong == []


def test_encoder_agrees_wherever_the_category_changes(encoders) -> None:
    """A difference between two versions of Unicode would show at the edges of its ranges."""
    edges = set()
    last = None
    for code in code_points():
        category = unicodedata.category(chr(code))
        if category != last:
            edges |= {code - 1, code}
        last = category
    assert len(edges) > 3_000
    assert_same_ids(encoders, sorted(edges & set(code_points())))


@pytest.mark.slow
def test_encoder_agrees_on_every_assigned_code_point(encoders) -> None:
    """And on one in 64 of those that are not assigned or private, which have no properties."""
    others = {"Cn", "Co"}
    codes = [
        code
        for code in code_points()
        if unicodedata.category(chr(code)) not in others or code % 64 == 0
    ]
    assert len(codes) > 150_000
    for start in range(0, len(codes), 1 << 16):
        encoders[1].cache.clear()
        assert_same_ids(encoders, codes[start : start + (1 << 16)])


def test_python_strips_all_that_gpt2_takes_for_white_space() -> None:
    """Else a line could end in white space, which would join the newline after it."""
    import regex

    space = regex.compile(r"\s")
    assert all(chr(code).isspace() for code in code_points() if space.match(chr(code)))


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A BPE as training might make it, over a small alphabet, with ids in any order."""
    pieces = byte_characters()
    made = [pieces[ord(c)] for c in "ab. 1"]
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.sampled_from(made)), draw(st.sampled_from(made))
        if pair not in merges:
            merges.append(pair)
            made.append("".join(pair))
    pieces = list(dict.fromkeys([*pieces, *made, *draw(st.lists(st.text("abxyz", min_size=2)))]))
    ids = draw(st.permutations(range(len(pieces))))
    return dict(zip(pieces, ids, strict=True)), merges


@settings(SETTINGS, max_examples=150)
@given(vocabulary=vocabularies(), lines=st.lists(st.text("aaabb. 1", min_size=1), max_size=8))
def test_encoder_gives_fairseqs_ids_for_any_vocabulary(
    gpt2_bpe_utils: ModuleType, vocabulary, lines: list[str]
) -> None:
    pieces, merges = vocabulary
    ours, reference = Encoder(pieces, merges), gpt2_bpe_utils.Encoder(pieces, merges)
    lines = stripped(lines)
    found = ours.encode([line.encode() for line in lines]).tolist()
    assert found == expected(reference, ours.newline, lines)


@settings(SETTINGS, max_examples=150)
@given(lines=LINES, repeats=st.lists(st.integers(0, 5), max_size=12))
def test_lines_become_what_fairseqs_dictionary_makes_of_them(
    encoders, tiny_bpe: Path, lines: list[str], repeats: list[int]
) -> None:
    """Repeated and empty lines too, and whatever ids the dictionary has not."""
    ours, reference = encoders
    dictionary = read_dictionary(tiny_bpe / "dict.txt")
    chosen = [(lines[i] if i < len(lines) else "").strip() for i in repeats]
    items = Binarizer(ours, dictionary).binarize([line.encode() for line in chosen])
    rows = [
        [*(dictionary.indices.get(str(i), 3) for i in reference.encode(line)), 2] for line in chosen
    ]
    assert items.tokens.tolist() == [token for row in rows for token in row]
    assert items.sizes.tolist() == [len(row) for row in rows]


@pytest.fixture(scope="module")
def fairseq_data() -> ModuleType:
    from components.train.compat import import_fairseq

    return import_fairseq("fairseq.data")


@settings(SETTINGS, max_examples=100)
@given(data=st.data(), vocabulary=st.sampled_from([300, 65_499, 65_500, 1 << 20]))
def test_fairseq_reads_what_the_writer_wrote(
    fairseq_data: ModuleType, tmp_path: Path, data: st.DataObject, vocabulary: int
) -> None:
    rows = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=20)
    stretches = data.draw(st.lists(st.lists(rows, max_size=5), max_size=4))
    kind = token_type(vocabulary)
    with Writer(tmp_path / "train", kind) as writer:
        for stretch in stretches:
            tokens = np.array([t for row in stretch for t in row], kind)
            writer.write(tokens, np.array([len(row) for row in stretch], np.int32))
    items = [row for stretch in stretches for row in stretch]

    builder = fairseq_data.indexed_dataset.make_builder(
        str(tmp_path / "stock.bin"), impl="mmap", vocab_size=vocabulary
    )
    torch = pytest.importorskip("torch")
    for row in items:
        builder.add_item(torch.IntTensor(row))
    builder.finalize(str(tmp_path / "stock.idx"))
    for suffix in (".bin", ".idx"):
        ours, stock = (tmp_path / f"{name}{suffix}" for name in ("train", "stock"))
        assert ours.read_bytes() == stock.read_bytes()
    if items:  # it cannot map an empty file
        read = fairseq_data.indexed_dataset.MMapIndexedDataset(str(tmp_path / "train"))
        assert [read[i].tolist() for i in range(len(read))] == items
        assert read.sizes.tolist() == [len(row) for row in items]


@settings(SETTINGS, max_examples=300)
@given(
    text=st.lists(
        st.tuples(
            st.sampled_from(
                ["1", "12", "a b", "<s>", "é", "", " ", "\u2028", "#fairseq:overwrite"]
            ),
            st.sampled_from(
                [" 5", " 0", " 007", " 1_0", " +3", " -1", " x", "", " 4 #fairseq:overwrite"]
            ),
            st.sampled_from(["\n", "\n", "\n", "  \n", "\r\n", ""]),
        ).map("".join),
        max_size=5,
    ).map("".join)
)
def test_dictionary_reads_and_writes_as_fairseqs_does(
    fairseq_data: ModuleType, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "dict.txt"
    path.write_bytes(text.encode())
    try:
        stock = fairseq_data.Dictionary.load(str(path))
    except (ValueError, RuntimeError):
        with pytest.raises(DataError):
            read_dictionary(path)
        return
    ours: Dictionary = read_dictionary(path)
    assert (ours.symbols, ours.indices, ours.counts) == (stock.symbols, stock.indices, stock.count)
    stock.save(str(tmp_path / "saved.txt"))
    assert ours.text().encode() == (tmp_path / "saved.txt").read_bytes()
