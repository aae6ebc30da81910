import pytest

from tgi_core.api.options import http_options
from tgi_core.config.settings import OPTIONS, Compat, ServerSettings
from tgi_core.config.sources import build, choose
from tgi_core.errors import UsageError


def from_flags(**flags):
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    return http_options(build(OPTIONS, choose(OPTIONS, {"model": "m", **given}, {})).server)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("models.example", False),
    ],
)
def test_only_a_loopback_address_is_local(host, local):
    assert http_options(ServerSettings(host=host)).local is local


def test_compat_tgi_lets_all_pages_in_unless_some_are_named():
    assert from_flags().allow_origins == ()
    assert from_flags(compat="tgi").allow_origins == ("*",)
    named = from_flags(compat="TGI", cors_allow_origin=["https://a", "https://b"])
    assert (named.compat, named.allow_origins) == (Compat.TGI, ("https://a", "https://b"))


def test_names_matter_if_given_or_if_nothing_else_keeps_pages_out():
    assert from_flags().guards_host
    assert not from_flags(api_key=["k"]).guards_host
    assert not from_flags(host="0.0.0.0").guards_host
    assert not from_flags(compat="tgi").guards_host
    assert from_flags(host="0.0.0.0", api_key=["k"], allowed_host=["models.example"]).guards_host
    assert not from_flags(allowed_host=["*"]).guards_host


def test_vertex_names_its_routes_by_variables_of_its_own():
    variables = {"AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict", "AIP_HEALTH_ROUTE": "/h"}
    options = http_options(build(OPTIONS, choose(OPTIONS, {"model": "m"}, variables)).server)
    assert (options.predict_route, options.health_route) == ("/v1/endpoints/7:predict", "/h")


@pytest.mark.parametrize(
    "flags",
    [
        {"api_key": [""]},
        {"api_key": ["two words"]},
        {"api_key": ["schlüssel"]},
        {"aip_predict_route": "predict"},
        {"aip_health_route": "/{anything}"},
        {"compat": "vllm"},
    ],
)
def test_what_could_never_work_is_refused_at_the_start(flags):
    with pytest.raises(UsageError):
        from_flags(**flags)
