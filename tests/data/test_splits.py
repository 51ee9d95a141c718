"""Splits depend on names and seed alone."""

from __future__ import annotations

import hashlib

import pytest

from igll.data.splits import split_names

NAMES = [f"Farm/farm_{number}" for number in range(50)] + [f"Port/port_{number}" for number in range(50)]


def test_parts_are_disjoint_complete_and_four_to_one():
    train, test = split_names(NAMES, "train", 0.2, 0), split_names(NAMES, "test", 0.2, 0)
    assert len(test) == 20 and len(train) == 80
    assert sorted(train + test) == list(range(100))


def test_the_order_of_listing_does_not_matter():
    chosen = {NAMES[index] for index in split_names(NAMES, "test", 0.2, 0)}
    turned = NAMES[::-1]
    assert {turned[index] for index in split_names(turned, "test", 0.2, 0)} == chosen


def test_the_test_part_is_the_head_of_the_hash_order():
    order = sorted(NAMES, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert {NAMES[index] for index in split_names(NAMES, "test", 0.2, 7)} == set(order[:20])


def test_another_seed_is_another_split():
    assert split_names(NAMES, "test", 0.2, 0) != split_names(NAMES, "test", 0.2, 1)


@pytest.mark.parametrize(("count", "fraction", "tests"), [(1, 0.2, 1), (2, 0.2, 1), (9, 0.0, 0), (0, 0.2, 0)])
def test_small_sets(count: int, fraction: float, tests: int):
    names = NAMES[:count]
    assert len(split_names(names, "test", fraction, 0)) == tests
    assert len(split_names(names, "train", fraction, 0)) == count - tests
