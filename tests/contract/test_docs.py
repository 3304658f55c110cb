"""docs/ quotes the code's own errors, marks what no test can run, asks for no needless rights."""

import ast
import json
import re
from pathlib import Path

import pytest

from components.common import errors
from pipeline import docs
from pipeline.docs import ROOT, pages
from tests.shell_blocks import NEEDS, Block, blocks

TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
HOLE = "\0"


def templates(source: str) -> list[str]:
    """The texts in a Python source, with a hole for each value that is put into one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.fixture(scope="module")
def all_templates() -> list[str]:
    sources = [p for part in ("components", "pipeline") for p in (ROOT / part).rglob("*.py")]
    return [text for path in sources for text in templates(path.read_text())]


QUOTED = re.findall(r"^### `(.+)`$", TROUBLESHOOTING.read_text(), re.MULTILINE)
QUOTED += re.findall(r"^Also (.*?)\.", TROUBLESHOOTING.read_text(), re.MULTILINE)[0][1:-1].split(
    "`, `"
)


def test_messages_are_found() -> None:
    assert len(QUOTED) > 45


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_code(message: str, all_templates: list[str]) -> None:
    # An ellipsis stands for a value, or for more text.
    wanted = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(wanted.search(text) for text in all_templates)


def test_every_exit_status_is_explained() -> None:
    text = TROUBLESHOOTING.read_text()
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.RaceError):
            assert re.search(rf"^\| {error.exit_status} \|", text, re.MULTILINE), error


ALL = [block for page in pages() for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=lambda b: f"{b.page.name}:{b.line}")
def test_what_a_block_needs_is_known(block: Block) -> None:
    assert block.needs <= set(NEEDS)
    assert block.commands.strip()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_shell_block_is_found(page: Path) -> None:
    assert len(blocks(page)) == len(re.findall(r"^ *```sh$", page.read_text(), re.MULTILINE))
    assert page.read_text().count("<!-- needs:") == sum(bool(block.needs) for block in blocks(page))


@pytest.mark.parametrize(
    ("command", "need"),
    [
        (r"\bdocker |race images|make images|--runner docker", "docker"),
        (r"race submit|kubectl", "cluster"),
        (r"make setup|make run|https?://", "network"),
        (r"--config roberta", "gpu"),
    ],
)
def test_what_needs_more_than_this_machine_says_so(command: str, need: str) -> None:
    for block in ALL:
        if re.search(command, re.sub(r"(^|\s)#.*", "", block.commands)):
            assert block.needs & {need, "cluster"}, f"{block.page.name}:{block.line}"


# What S3Store asks for, and the permission that S3 wants for it.
PERMISSIONS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}


def test_the_policy_allows_what_the_storage_asks_for_and_no_more() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    policy = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    allowed = [action for statement in policy["Statement"] for action in statement["Action"]]
    names = {
        text
        for path in (ROOT / "components" / "common" / "storage").glob("*.py")
        for text in templates(path.read_text())
        if re.fullmatch(r"[a-z]+_(\w+_)?(object|objects_v2|upload|uploads|part)", text)
    }
    assert names == PERMISSIONS.keys()
    assert sorted(allowed) == sorted(set(PERMISSIONS.values()))


def test_generated_parts_are_fresh() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    assert docs.written(texts) == texts, "run `make docs`"


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in pages()[1:] if f"(docs/{page.name})" not in text] == []
