from components.common.text import columns


def test_names_stand_left_figures_right_and_no_line_ends_in_spaces() -> None:
    rows = [("split", "level", "questions"), ("train", "high", "1,234"), ("all", "", "")]
    assert columns(rows, left=2) == [
        "split  level  questions",
        "train  high       1,234",
        "all",
    ]
