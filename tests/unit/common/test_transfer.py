"""What attempts and shown names promise."""

import pytest

from components.common.transfer import Patience, shown_url


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


def test_waits_double_up_to_a_limit_and_half_of_each_is_chance() -> None:
    patience = Patience(first_wait=1.0, longest_wait=10.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (5000, 10.0)):
        waits = [patience.wait(failures) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_wait_that_is_asked_for_is_kept_within_the_limit() -> None:
    patience = Patience(first_wait=1.0, longest_wait=10.0)
    assert patience.wait(1, asked=7.0) == 7.0
    assert patience.wait(1, asked=3600.0) == 10.0
    assert 0.5 <= patience.wait(1, asked=0.0) <= 1.0
