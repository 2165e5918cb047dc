"""Logging in: what it takes, how long it lasts, and what it does not tell."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.server.api.worlds import PASSWORD, World
from wardround.errors import LocalError
from wardround.server.api.answers import Refusal
from wardround.server.api.app import make_api
from wardround.server.api.attempts import Attempts, Limit
from wardround.server.api.login import IDLE, LIFETIME, Login
from wardround.server.api.passwords import Passwords, account_name

OFFICE, HOME = "192.0.2.1", "2001:db8:1:2::3"
QUARTER = timedelta(minutes=15)


def log_in(world: World, name: str, password: str, address: str = OFFICE) -> tuple[int, str]:
    answer = world.ask("POST", "/session", {"name": name, "password": password}, token="", address=address)
    return answer.status_code, answer.text


def guesses(world: World, address: str, number: int) -> list[int]:
    """What wrong passwords of `ada` from an address are answered."""
    return [log_in(world, "ada", "wrong password", address)[0] for _ in range(number)]


@pytest.fixture
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a verification costs is tested elsewhere."""
    monkeypatch.setattr(Passwords, "matches", lambda self, kept, password: kept is not None and password == PASSWORD)


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


@pytest.mark.usefixtures("cheap_argon2")
class TestFailures:
    def test_ten_from_an_address_are_enough_for_a_quarter_of_an_hour(self, world: World) -> None:
        answers = [log_in(world, f"somebody {number}", "wrong password")[0] for number in range(11)]
        assert answers == [401] * 10 + [429]
        assert log_in(world, "ada", PASSWORD)[0] == 429
        assert log_in(world, "ada", PASSWORD, HOME)[0] == 200
        world.pass_time(QUARTER)
        assert log_in(world, "ada", PASSWORD)[0] == 200

    def test_the_answer_says_how_long(self, world: World) -> None:
        guesses(world, OFFICE, 10)
        world.pass_time(timedelta(minutes=4, seconds=1))
        answer = world.ask("POST", "/session", {"name": "ada", "password": PASSWORD}, token="", address=OFFICE)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "659")
        assert answer.json() == {"error": "too many failed logins; try again in 11 minutes"}

    def test_all_addresses_of_a_machine_with_ipv6_are_one(self, world: World) -> None:
        answers = [guesses(world, f"2001:db8::{number:x}", 1)[0] for number in range(11)]
        assert answers == [401] * 10 + [429]
        assert guesses(world, "2001:db8:0:1::1", 1) == [401]

    def test_many_addresses_do_not_keep_out_who_has_logged_in_from_there(self, world: World) -> None:
        """Whoever knows the name of an account cannot keep its owner out by failing."""
        for address in (OFFICE, HOME):
            assert log_in(world, "ada", PASSWORD, address)[0] == 200
        assert [guesses(world, f"203.0.113.{number}", 10) for number in range(10)] == [[401] * 10] * 10
        assert guesses(world, "203.0.113.99", 1) == [429]
        assert log_in(world, "ada", PASSWORD, "198.51.100.1")[0] == 429, "nor is the right password tried for strangers"
        for address in (OFFICE, "2001:db8:1:2:ffff::1", "127.0.0.1", "::1", "::ffff:192.0.2.1"):
            assert log_in(world, "ada", PASSWORD, address)[0] == 200, address

    def test_that_outlasts_a_restart_and_ends_after_thirty_days(self, world: World) -> None:
        log_in(world, "ada", PASSWORD)
        for days, expected in ((29, 200), (29, 200), (30, 429)):
            world.pass_time(timedelta(days=days))
            world.app = make_api(world.services)
            for number in range(10):
                guesses(world, f"203.0.113.{number}", 10)
            assert log_in(world, "ada", PASSWORD)[0] == expected

    def test_guesses_are_bounded_from_wherever(self, world: World) -> None:
        """A hundred from strangers, ten from each of twenty networks, however often ada logs in meanwhile."""
        for number in range(25):
            log_in(world, "ada", PASSWORD, f"192.0.2.{number}")
        tried = 0
        for _ in range(2):
            for number in range(40):
                tried += guesses(world, f"192.0.2.{number}", 12).count(401)
                log_in(world, "ada", PASSWORD, "127.0.0.1")
        assert tried == 100 + 20 * 10

    def test_other_accounts_are_not_closed(self, world: World) -> None:
        world.add_account("bo")
        for number in range(10):
            guesses(world, f"203.0.113.{number}", 10)
        assert log_in(world, "bo", PASSWORD, "198.51.100.1")[0] == 200

    def test_a_name_that_nobody_has_is_closed_as_one_that_somebody_has(self, world: World) -> None:
        found = []
        for name in ("nobody", "ada"):
            world.pass_time(QUARTER)
            found.append([log_in(world, name, "wrong password", f"203.0.113.{number // 10}") for number in range(101)])
        assert found[0] == found[1]
        assert found[0][-1][0] == 429

    @pytest.mark.parametrize("address", [OFFICE, "127.0.0.1"])
    def test_names_cannot_be_told_apart_where_some_account_is_known(self, world: World, address: str) -> None:
        world.add_account("bo")
        assert log_in(world, "ada", PASSWORD, address)[0] == 200
        nobodies = [log_in(world, f"nobody {number}", "wrong password", address)[0] for number in range(11)]
        assert nobodies == [401] * 10 + [429]
        assert {log_in(world, name, PASSWORD, address)[0] for name in ("ada", "bo", "carol")} == {429}
        found = []
        for name in ("ada", "bo", "nobody"):
            world.pass_time(QUARTER)
            found.append([log_in(world, name, "wrong password", address) for _ in range(11)])
        assert found[0] == found[1] == found[2]

    def test_guesses_are_bounded_where_only_others_are_known(self, world: World) -> None:
        """An account of one's own is no way to more guesses: known in ever more networks, it tries another's name."""
        world.add_account("bo")
        assert log_in(world, "ada", PASSWORD)[0] == 200
        for name in ("ada", "nobody"):
            world.pass_time(QUARTER)
            tried = 0
            for number in range(30):
                address = f"203.0.113.{number}"
                assert log_in(world, "bo", PASSWORD, address)[0] == 200
                tried += [log_in(world, name, "wrong password", address)[0] for _ in range(11)].count(401)
            assert tried == 100
            assert log_in(world, "ada", PASSWORD)[0] == 200, "nor is the owner kept out"

    def test_success_is_not_counted_and_forgets_nothing(self, world: World) -> None:
        assert guesses(world, OFFICE, 9) == [401] * 9
        assert [log_in(world, "ada", PASSWORD)[0] for _ in range(20)] == [200] * 20
        world.add_account("bo")  # one's own account is no way to more guesses
        assert guesses(world, OFFICE, 9) == [401] * 9, "known now"
        assert log_in(world, "bo", PASSWORD)[0] == 200
        assert guesses(world, OFFICE, 2) == [401, 429]
        assert log_in(world, "bo", PASSWORD)[0] == 429

    def test_they_fill_no_disk(self, world: World) -> None:
        before = world.services.events.newest()
        log_in(world, "nobody", PASSWORD)
        assert world.services.events.newest() == before
        for number in range(10):
            guesses(world, f"203.0.113.{number}", 10)
        assert [one.kind for one in world.services.events.list(after=before)] == ["account.login_failed"] * 10


def test_strangers_who_wait_do_not_hold_up_the_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    login, begun, go_on = Login(world.services), threading.Event(), threading.Event()
    login.begin("ada", PASSWORD, OFFICE)
    real = Passwords.matches

    def slow(self: Passwords, kept: str | None, password: str) -> bool:
        if kept is None:
            begun.set()
            assert go_on.wait(60)
        return real(self, kept, password)

    monkeypatch.setattr(Passwords, "matches", slow)

    def fails(number: int) -> int:
        with pytest.raises(Refusal) as refused:
            login.begin("nobody", "wrong password", f"203.0.113.{number}")
        if refused.value.status_code == 503:
            go_on.set()
        return refused.value.status_code

    with ThreadPoolExecutor(9) as pool:
        waiting = [pool.submit(fails, number) for number in range(9)]
        assert begun.wait(60)
        assert login.begin("ada", PASSWORD, OFFICE).account.name == "ada"
        assert sorted(one.result() for one in waiting) == [401] * 8 + [503]


def test_attempts_at_once_all_count_and_memory_is_bounded(world: World) -> None:
    attempts, limit = Attempts(), Limit(most=3)
    now = world.clock[0]
    assert [attempts.begin([("a", limit)], now) for _ in range(5)] == [None] * 3 + [limit.window] * 2
    assert attempts.begin([("b", limit), ("a", limit)], now + timedelta(minutes=1)) == timedelta(minutes=14)
    assert [attempts.begin([("b", limit)], now) for _ in range(4)] == [None] * 3 + [limit.window], "b was not counted"
    attempts.take_back("b")
    assert [attempts.begin([("b", limit)], now) for _ in range(2)] == [None, limit.window]
    for number in range(20_000):
        attempts.begin([(str(number), limit)], now)
    assert len(attempts._counts) == 10_000


def test_a_clock_that_is_set_back_keeps_nobody_out(world: World) -> None:
    attempts, limit, now = Attempts(), Limit(most=3), world.clock[0]
    assert [attempts.begin([("a", limit)], now) for _ in range(4)][-1] == limit.window
    before = now - timedelta(hours=2)
    assert [attempts.begin([("a", limit)], before) for _ in range(4)] == [None] * 3 + [limit.window]


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


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_page_in_the_owners_browser_cannot_use_up_logins(world: World, kind: str | None) -> None:
    """What a page of another site may send without asking is not JSON; asking is refused."""
    headers = {"origin": "https://evil.example"} | ({} if kind is None else {"content-type": kind})
    body = json.dumps({"name": "ada", "password": "wrong password"}).encode()
    for _ in range(11):
        assert world.ask("POST", "/session", token="", content=body, headers=headers).status_code == 422
    asks = headers | {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    answer = world.ask("OPTIONS", "/session", token="", headers=asks)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    assert world.log_in()
