"""As many drafts as pay, by what steps cost and by how often drafts are right."""

from __future__ import annotations

import random

import pytest

from tgi_core.engine.draft_costs import Chances, LookCosts, Offer, StepCosts, worthwhile


def costs(
    fixed_s: float, token_s: float, noise: float = 0.0, row_s: float = 0.0, drafting_s: float = 0.0
) -> StepCosts:
    rng = random.Random(1)
    made = StepCosts()
    for _ in range(400):
        rows = rng.choice([1, 2, 4])
        drafted = rng.choice([0, 0, rng.randint(0, rows)])
        num = rows + drafted * rng.randint(1, 6)
        seconds = fixed_s + token_s * num + row_s * drafted + drafting_s * (drafted > 0)
        made.observe(num, drafted, seconds * rng.uniform(1 - noise, 1 + noise))
    return made


def count(chance: float, made: StepCosts, rows: int = 1, most: int = 16) -> int:
    found = worthwhile(
        [Offer(chance, most)] * rows, made, num_rows=rows, num_tokens=rows, most=10_000
    )
    return sum(found) // rows


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_costs_are_learned_from_steps(noise: float) -> None:
    made = costs(0.014, 0.0005, noise)
    assert made.fixed_s == pytest.approx(0.014, rel=0.05 + noise / 2)
    assert made.token_s == pytest.approx(0.0005, rel=0.15 + 2 * noise)
    made = costs(0.014, 0.0005, noise, row_s=0.002, drafting_s=0.003)
    drafted_s = made.row_s + made.drafting_s
    assert drafted_s == pytest.approx(0.005, rel=0.1 + noise)


def test_a_step_that_was_held_up_is_not_believed() -> None:
    made = costs(0.014, 0.0005)
    made.observe(9, 1, 2.0)
    assert made.token_s < 0.0015


def test_a_device_that_changes_is_learned_anew() -> None:
    made = costs(0.014, 0.0005)
    for i in range(1500):
        num = 1 + i % 5
        made.observe(num, int(num > 1), 0.001 + 0.004 * num)
    assert made.token_s == pytest.approx(0.004, rel=0.1)


def test_long_drafts_pay_where_tokens_are_cheap_and_likely() -> None:
    cheap = costs(0.014, 0.0003)
    assert count(0.95, cheap) > 8
    assert 1 <= count(0.5, cheap) <= 5
    assert count(0.01, cheap) == 0


def test_a_row_with_drafts_has_enough_of_them_or_none() -> None:
    """Where having any is what costs, one draft is no half measure."""
    dear = costs(0.014, 0.0003, row_s=0.006, drafting_s=0.002)
    assert count(0.3, dear) == 0
    assert count(0.9, dear) >= 5
    assert count(0.9, dear, most=1) in (0, 1)


def test_drafts_do_not_pay_where_each_token_costs_a_step() -> None:
    assert count(0.9, costs(0.001, 0.02)) == 0


def test_a_full_batch_has_fewer_drafts_than_a_row_alone() -> None:
    made = costs(0.014, 0.0005)
    counts = [count(0.6, made, rows) for rows in (1, 16, 256)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[2]


def test_nothing_is_drafted_before_a_step_was_seen() -> None:
    assert count(0.99, StepCosts()) == 0


def test_the_likeliest_drafts_come_first_and_room_is_respected() -> None:
    made = costs(0.014, 0.0003)
    offers = [Offer(0.3, 8), Offer(0.95, 8), Offer(0.9, 2), Offer(0.99, 0)]
    found = worthwhile(offers, made, num_rows=4, num_tokens=4, most=100)
    assert found[1] >= found[0] and found[2] == 2 and found[3] == 0
    assert sum(worthwhile(offers, made, num_rows=4, num_tokens=4, most=3)) == 3
    assert worthwhile(offers, made, num_rows=4, num_tokens=4, most=-2) == [0] * 4


def test_a_new_sequence_starts_from_what_others_met_and_learns_its_own() -> None:
    chances = Chances()
    assert chances.of("new", 0) == 0.5
    for i in range(100):
        chances.observe(f"{i}", 0, 0, 1)
    assert chances.of("new", 0) < 0.1
    assert chances.of("new", 1) == 0.5, "another grade"
    for _ in range(10):
        chances.observe("new", 0, 5, 0)
    assert chances.of("new", 0) > 0.8 and chances.of("other", 0) < 0.5
    chances.forget("new")
    assert chances.of("new", 0) == chances.of("other", 0)


@pytest.mark.parametrize("look_s", [0.00001, 0.004, 0.05])
def test_looking_in_hope_takes_a_small_share_of_the_time(look_s: float) -> None:
    looks, spent = LookCosts(), 0.0
    for _ in range(1000):
        looks.earn(0.01)
        if looks.may_hope:
            looks.spend(1, look_s, hoping=1.0)
            spent += look_s
    assert 0 < spent < 0.03 * 1000 * 0.01
    assert looks.token_s == pytest.approx(look_s)


def test_looking_with_expectations_costs_no_hope() -> None:
    looks = LookCosts()
    for _ in range(100):
        looks.spend(5, 0.05, hoping=0.0)
    assert looks.may_hope
    looks.spend(1, 10.0, hoping=0.0)  # a long prompt
    assert looks.token_s < 0.02
    begun = LookCosts()
    begun.spend(1, 10.0, hoping=0.0)
    for _ in range(20):
        begun.spend(5, 0.05, hoping=0.0)
    assert begun.token_s < 0.011, "also if it comes first"


def test_drafts_that_take_long_to_make_must_bring_more() -> None:
    made = costs(0.014, 0.0003)
    [cheap] = worthwhile([Offer(0.8, 16)], made, num_rows=1, num_tokens=1, most=16)
    [dear] = worthwhile([Offer(0.8, 16)], made, num_rows=1, num_tokens=1, most=16, look_s=0.004)
    [never] = worthwhile([Offer(0.8, 16)], made, num_rows=1, num_tokens=1, most=16, look_s=0.02)
    assert cheap > dear > never == 0


def test_a_sequence_has_drafts_once_some_were_right() -> None:
    chances = Chances()
    for _ in range(50):
        chances.observe("other", 1, 4, 0)
    assert chances.offer("new", 1, 8).most == 0, "others earn nothing for it"
    chances.observe("new", 1, 1, 0)
    assert 1 <= chances.offer("new", 1, 8).most <= 3
    assert chances.offer("new", 2, 8).most >= 1, "a better grade"
    assert chances.offer("new", 0, 8).most == 0, "a worse one"
    assert chances.best_offer("new", 8).most >= 1
    chances.observe("new", 1, 3, 0)
    assert chances.offer("new", 1, 8).most == 8
    for _ in range(40):
        chances.observe("new", 1, 0, 1)
    assert chances.offer("new", 1, 8).most == 0
