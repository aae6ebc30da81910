"""TGI's list of adapters."""

from __future__ import annotations

import pytest

from tgi_core.config.adapters import WantedAdapter, wanted_adapters
from tgi_core.errors import UsageError


def test_each_of_tgis_forms_is_read():
    assert wanted_adapters("org/a, org/b@v1,c=/models/c,d=org/d@main,") == (
        WantedAdapter("org/a", "org/a", None),
        WantedAdapter("org/b", "org/b", "v1"),
        WantedAdapter("c", "/models/c", None),
        WantedAdapter("d", "org/d", "main"),
    )
    assert wanted_adapters("") == ()


@pytest.mark.parametrize("part", ["a=b=c", "a@b@c", "=a", "a=", "a@", "@v", "a@v=b"])
def test_other_forms_are_refused_in_tgis_words(part):
    with pytest.raises(UsageError) as refused:
        wanted_adapters(f"x=y,{part}")
    assert str(refused.value) == f"Invalid LoRA adapter format: {part}"


def test_a_name_cannot_mean_two_adapters():
    with pytest.raises(UsageError, match="two adapters 'a'"):
        wanted_adapters("a=x,a=y")
