"""When a site works."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.guard.hours import is_open, read_window

MONDAY = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "day", "time", "expected"),
    [
        ("mon-fri 20:00-06:00", 0, "19:59", False),
        ("mon-fri 20:00-06:00", 0, "20:00", True),
        ("mon-fri 20:00-06:00", 0, "05:59", False),  # of Sunday's night
        ("mon-fri 20:00-06:00", 5, "05:59", True),  # of Friday's night
        ("mon-fri 20:00-06:00", 5, "06:00", False),
        ("mon-fri 20:00-06:00", 5, "23:00", False),
        ("sat,sun 00:00-24:00", 6, "23:59", True),
        ("sat,sun 00:00-24:00", 0, "00:00", False),
        ("12:00-13:00", 3, "12:30", True),
        ("fri-mon 12:00-13:00", 0, "12:30", True),
        ("fri-mon 12:00-13:00", 1, "12:30", False),
        ("Tue 12:00-13:00", 1, "12:30", True),
    ],
)
def test_a_window(window: str, day: int, time: str, expected: bool) -> None:
    hour, minute = map(int, time.split(":"))
    assert is_open([window], "UTC", MONDAY + timedelta(days=day, hours=hour, minutes=minute)) is expected


def test_the_clock_is_the_sites_own_also_in_summer() -> None:
    window = ["20:00-21:00"]
    assert is_open(window, "Europe/Berlin", datetime(2026, 1, 5, 19, 30, tzinfo=UTC))
    assert not is_open(window, "Europe/Berlin", datetime(2026, 7, 6, 19, 30, tzinfo=UTC))
    assert is_open(window, "Europe/Berlin", datetime(2026, 7, 6, 18, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20:00",
        "25:00-26:00",
        "24:30-06:00",
        "20:60-21:00",
        "20:00-20:00",
        "24:00-06:00",
        "mon 20:00",
        "funday 1:00-2:00",
        "mon- 10:00-11:00",
        "mon,,tue 10:00-11:00",
        "mon 10:00-11:00 UTC",
        "\u0661\u0660:00-11:00",
        "mon\n10:00-11:00",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"DAYS|times|days of|minutes"):
        read_window(text)


@given(st.integers(0, 1439), st.integers(0, 1440), st.sets(st.integers(0, 6), min_size=1), st.integers(0, 7 * 1440 - 1))
def test_a_window_has_the_minutes_that_counting_gives(start: int, end: int, days: set[int], minute: int) -> None:
    if start == end:
        return
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    text = f"{','.join(names[day] for day in days)} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    minutes: set[int] = set()
    for day in days:
        length = end - start if end > start else end - start + 1440
        minutes |= {(day * 1440 + start + step) % (7 * 1440) for step in range(length)}
    assert read_window(text).has(MONDAY + timedelta(minutes=minute)) == (minute in minutes)
