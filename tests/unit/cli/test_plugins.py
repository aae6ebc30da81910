import json

from tgi_core.cli.app import main

POLICIES = "@hookimpl\ndef tgi_queue_policies(): return []"


OURS = [
    part
    for name in ("torch", "torch-encoder", "llamacpp", "openvino")
    for part in ("--disable-plugin", name)
]
"""Blocked, for probing them imports a device library."""


def listing(capsys, *flags):
    status = main(["plugins", *OURS, *flags])
    rows = json.loads(capsys.readouterr().out)
    return status, {(row["kind"], row["name"]): row for row in rows}


def test_without_check_nothing_is_imported(install, capsys):
    install("tgi.backends", "broken", "raise SystemExit('imported')")
    status, rows = listing(capsys)
    assert status == 0
    row = rows["backend", "broken"]
    assert row["distribution"] == "dist-broken"
    assert row["version"] == "1.5"
    assert row["status"] == "installed"
    assert row["hooks"] is None


def test_check_tells_contract_hooks_and_devices(install, capsys):
    install.backend("good")
    install.plugin("extra", POLICIES)
    _, rows = listing(capsys, "--check")
    backend, plugin = rows["backend", "good"], rows["plugin", "extra"]
    assert backend["status"] == plugin["status"] == "ok"
    assert backend["contract"] == "1.0"
    assert backend["hooks"] == ["tgi_backend"]
    assert backend["devices"] == ["a made-up device"]
    assert backend["available"] is True
    assert plugin["hooks"] == ["tgi_queue_policies"]
    assert plugin["available"] is None


def test_check_tells_faults_and_exits_with_1(install, capsys):
    install("tgi.backends", "broken", "import no_such_library")
    install.plugin("typo", "@hookimpl\ndef tgi_queue_policie(): return []")
    status, rows = listing(capsys, "--check")
    assert status == 1
    assert "no_such_library" in rows["backend", "broken"]["status"]
    assert rows["plugin", "typo"]["status"].startswith("error: ")
    assert "tgi_queue_policies" in rows["plugin", "typo"]["status"]


def test_check_tells_of_a_dialect_for_another_contract(install, capsys):
    install.plugin(
        "modern",
        """
        from tgi_core.contract import Dialect

        @hookimpl
        def tgi_routes():
            return [Dialect(name="modern", contract=(9, 0), routes=[], failure=print)]
        """,
    )
    status, rows = listing(capsys, "--check")
    assert status == 1
    assert "speaks version 9.0" in rows["plugin", "modern"]["status"]


def test_a_disabled_plugin_is_blocked_and_not_imported(install, capsys):
    install("tgi.backends", "off", "raise SystemExit('imported')")
    _, rows = listing(capsys, "--check", "--disable-plugin", "off")
    assert rows["backend", "off"]["status"] == "blocked"


def test_doubled_names_are_shown_with_both_distributions(install, capsys):
    install.backend("twin", distribution="castor")
    install.backend("twin", distribution="pollux")
    main(["plugins"])
    rows = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "twin"]
    assert [row["distribution"] for row in rows] == ["castor", "pollux"]
    assert all(row["status"].startswith("error: another distribution") for row in rows)
