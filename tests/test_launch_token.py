"""Tokens and lives: what is written is what is read, and what came first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobmill.fetcher.strays import _job
from jobmill.starter.flight import Flight
from jobmill.starter.granted import Granted
from jobmill.systems import launch_token, run_folder
from jobmill.systems.spool_launches import TOKEN


@pytest.mark.parametrize(
    ("record", "arrival", "life"),
    [("1f2e3d4c5b6a", 17, "1f2e3d4c5b6a.17"), ("rec", 2**42 - 1, "rec.4398046511103"), ("rec", 0, "rec")],
)
def test_a_life_is_read_as_it_was_written(record: str, arrival: int, life: str) -> None:
    assert launch_token.life(record, arrival) == life
    assert launch_token.record_and_arrival(life) == (record, arrival)
    token = f"{life}:a.b-1:3"
    assert launch_token.split(token) == (life, "a.b-1", 3) and launch_token.life_of(token) == life
    assert TOKEN.fullmatch(token) and _job(token) == "a.b-1"


@pytest.mark.parametrize("life", ["rec", "rec.", ".5", "rec.x", "rec.05", "rec.0", "rec.-1", "rec.1²", "r.e.c"])
def test_what_is_no_number_is_part_of_the_record(life: str) -> None:
    assert launch_token.record_and_arrival(life) == (life, 0)


@pytest.mark.parametrize(
    "bad", ["", "a:1", ":a:1", "rec.1::1", "rec.1:..:1", "rec.1:a/b:1", "rec.1:a b:1", "rec.1:a:x"]
)
def test_what_is_no_token(bad: str) -> None:
    with pytest.raises(ValueError):
        launch_token.split(bad)
    assert not TOKEN.fullmatch(bad)


def test_which_life_came_first() -> None:
    assert launch_token.earlier("rec.9", "rec.10")
    for life, other in (("rec.10", "rec.9"), ("rec.9", "rec.9"), ("rec", "rec.9"), ("rec.9", "rec"), ("a.1", "b.2")):
        assert not launch_token.earlier(life, other)
    assert launch_token.unnumbered("rec", "rec.9")
    assert not launch_token.unnumbered("rec.9", "rec.9") and not launch_token.unnumbered("other", "rec.9")


@pytest.mark.parametrize(("told", "arrival"), [('"arrival":17,', 17), ("", 0)])
def test_a_grant_and_a_flight_carry_the_arrival(told: str, arrival: int) -> None:
    entry = f'{{"id":"a","fence":2,"run":1,{told}"system":"local","spec":{{"id":"a"}}}}'
    granted = Granted.read(entry.encode())
    assert granted is not None and granted.arrival == arrival
    flight = Flight(job_id="a", run=1, fence=2, arrival=arrival, system="local")
    assert flight.launch == (f"a@{arrival}" if arrival else "a", 1, 2)
    assert f'"arrival":{arrival},' in flight.end("{}")


@pytest.mark.parametrize("arrival", ['"x"', "null", "{}"])
def test_an_entry_with_another_arrival_is_no_grant(arrival: str) -> None:
    entry = f'{{"id":"a","fence":2,"run":1,"arrival":{arrival},"system":"local","spec":{{}}}}'
    assert Granted.read(entry.encode()) is None


def test_a_line_that_a_job_wrote_into_its_run_file_is_passed_over(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    os.close(run_folder.take(folder, run_folder.header("r.1:a:1", "-")))
    run_folder.append(folder, b"left x\njobmill\npid one two\nexit soon end\npid 7 9\n")
    run = run_folder.read(folder)
    assert run is not None and (run.token, run.pid, run.end) == ("r.1:a:1", 7, None)
