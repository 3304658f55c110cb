"""What shown names promise."""

import pytest

from components.common.transfer import shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.txt", "https://host/a/b.txt"),
        ("https://me:secret@host:81/a", "https://***@host:81/a"),
        ("https://me:se@cret@host/a", "https://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://host/a?X-Amz-Signature=secret#secret", "https://host/a?***"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("file:///a/b", "file:///a/b"),
        ("/a/b c", "/a/b c"),
    ],
)
def test_a_shown_url_holds_no_credentials(url: str, shown: str) -> None:
    assert shown_url(url) == shown
