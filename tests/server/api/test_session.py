"""Logging in: what it takes, how long it lasts, and what it does not tell."""

from datetime import timedelta

import pytest

from tests.server.api.worlds import PASSWORD, World
from wardround.errors import LocalError
from wardround.server.api.attempts import Attempts, Limit
from wardround.server.api.login import IDLE, LIFETIME
from wardround.server.api.passwords import Passwords, account_name


def log_in(world: World, name: str, password: str) -> tuple[int, str]:
    answer = world.ask("POST", "/session", {"name": name, "password": password}, token="")
    return answer.status_code, answer.text


def test_a_session_says_whose_it_is(world: World) -> None:
    answer = world.ask("GET", "/session")
    assert answer.json()["account"] == {"name": "ada", "role": "owner"}
    assert "$argon2" not in answer.text


def test_names_are_one_however_they_are_written(world: World) -> None:
    assert log_in(world, " ADA ", PASSWORD)[0] == 200
    assert account_name("\uff21da") == "ada"
    for text in ("", " ", "a\nb", "x" * 65):
        with pytest.raises(ValueError, match="expected a name"):
            account_name(text)


def test_a_wrong_name_and_a_wrong_password_have_one_answer(world: World) -> None:
    wrong = log_in(world, "ada", "another password")
    assert wrong == log_in(world, "nobody", PASSWORD) == log_in(world, "\n", PASSWORD)
    assert wrong[0] == 401


def test_an_unknown_name_costs_a_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, verified = Passwords(), []
    real = passwords._hasher

    class Counting:
        def verify(self, kept: str, password: str) -> bool:
            verified.append(kept)
            return real.verify(kept, password)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    assert not passwords.matches(None, "nobody has this password")
    assert len(verified) == 1
    assert verified[0].startswith("$argon2id$")


def test_a_password_is_kept_as_argon2id_with_a_salt_and_has_twelve_letters() -> None:
    passwords = Passwords()
    kept = passwords.hash(PASSWORD)
    assert kept.startswith("$argon2id$")
    assert kept != passwords.hash(PASSWORD)
    assert passwords.matches(kept, PASSWORD)
    assert not passwords.matches(kept, PASSWORD + "!")
    with pytest.raises(LocalError, match="expected 12 letters or more, got 5"):
        passwords.hash("short")


def test_a_session_ends_after_an_hour_without_use(world: World) -> None:
    world.pass_time(IDLE - timedelta(seconds=1))
    assert world.ask("GET", "/session").status_code == 200
    world.pass_time(IDLE - timedelta(seconds=1))
    assert world.ask("GET", "/session").status_code == 200  # it was used
    world.pass_time(IDLE)
    assert world.ask("GET", "/session").status_code == 401


def test_a_session_ends_after_twelve_hours_of_use(world: World) -> None:
    for _ in range(int(LIFETIME / timedelta(minutes=30)) - 1):
        world.pass_time(timedelta(minutes=30))
        assert world.ask("GET", "/session").status_code == 200
    world.pass_time(timedelta(minutes=30))
    assert world.ask("GET", "/session").status_code == 401


def test_logging_out_ends_this_session_alone(world: World) -> None:
    other = world.log_in()
    assert world.ask("DELETE", "/session").status_code == 204
    assert world.ask("GET", "/session").status_code == 401
    assert world.ask("GET", "/session", token=other).status_code == 200


def test_a_disabled_account_has_no_session_and_gets_none(world: World) -> None:
    world.services.accounts.disable(world.services.accounts.list()[0].id, world.clock[0])
    assert world.ask("GET", "/session").status_code == 401
    assert log_in(world, "ada", PASSWORD)[0] == 401


def test_the_database_has_no_token(world: World) -> None:
    with world.database.reading() as connection:
        rows = repr(connection.exec_driver_sql("SELECT * FROM sessions").all())
    assert world.token not in rows


def test_ten_failures_from_an_address_are_enough_for_a_quarter_of_an_hour(world: World) -> None:
    answers = [log_in(world, f"somebody {number}", "wrong password")[0] for number in range(11)]
    assert answers == [401] * 10 + [429]
    assert log_in(world, "ada", PASSWORD)[0] == 429
    world.pass_time(timedelta(minutes=15))
    assert log_in(world, "ada", PASSWORD)[0] == 200


def test_success_forgets_failures(world: World) -> None:
    for _ in range(3):
        assert [log_in(world, "ada", "wrong password")[0] for _ in range(9)] == [401] * 9
        assert log_in(world, "ada", PASSWORD)[0] == 200


def test_attempts_at_once_all_count_and_memory_is_bounded(world: World) -> None:
    attempts, limit = Attempts(), Limit(most=3)
    now = world.clock[0]
    assert [attempts.begin([("a", limit)], now) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not attempts.begin([("b", limit), ("a", limit)], now)
    assert attempts.begin([("b", limit)], now)
    for number in range(20_000):
        attempts.begin([(str(number), limit)], now)
    assert len(attempts._counts) == 10_000


@pytest.mark.parametrize("header", ["Bearer", "Bearer x y", "Basic abc", "Bearer \u00fc", "bearer " + "x" * 5000])
def test_what_is_no_token_is_no_session(world: World, header: str) -> None:
    answer = world.ask("GET", "/session", token="", headers={"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_refused_value_is_not_repeated(world: World) -> None:
    """It may be a password in the wrong place."""
    answer = world.ask("POST", "/session", {"name": "ada", "password": "s3cret " * 500, "pin": "s3cret"}, token="")
    assert answer.status_code == 422
    assert "s3cret" not in answer.text


def test_failures_of_strangers_fill_no_disk(world: World) -> None:
    before = world.services.events.newest()
    log_in(world, "nobody", PASSWORD)
    assert world.services.events.newest() == before
    log_in(world, "ada", "wrong password")
    assert world.services.events.list(after=before)[0].kind == "account.login_failed"
