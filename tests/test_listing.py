"""Lists of names in lines for the user."""

from dyn4d.core.listing import counted, frame_ranges, listed, tensor_list


def test_the_first_names_and_whether_there_are_more() -> None:
    assert listed([]) == "" and listed(["a"]) == "a"
    assert listed(range(3), 3) == "0, 1, 2" and listed(range(4), 3) == "0, 1, 2, …"
    assert listed(str(i) for i in range(9)).endswith("7, …")


def test_things_and_tensors_are_counted() -> None:
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert tensor_list(["w"]) == "1 tensor (w)"
    assert tensor_list(list("abcde")) == "5 tensors (a, b, c, d, …)"


def test_frames_in_a_row_are_a_range() -> None:
    assert frame_ranges([]) == "" and frame_ranges([7]) == "7"
    assert frame_ranges([3, 5, 6, 7, 12]) == "3, 5-7, 12"
    assert frame_ranges([0, 2, 4, 6, 8, 9]) == "0, 2, 4, 6 +2"
    assert frame_ranges([0, 2, 4, 6, 8, 9], None) == "0, 2, 4, 6, 8-9"
