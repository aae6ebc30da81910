import subprocess
import sys

import pytest

from tgi_core import __version__
from tgi_core.errors import PluginConflict, UnknownPlugin
from tgi_core.plugin.catalog import Installed, PluginKind, find, installed


def test_core_itself_offers_the_fake_backend():
    assert find(PluginKind.BACKEND, "fake") == Installed(
        kind=PluginKind.BACKEND,
        name="fake",
        module="tgi_core.testing.fake",
        distribution="tgi-core",
        version=__version__,
    )


def test_both_groups_are_read_without_importing_anything(install):
    install("tgi.backends", "broken", "raise RuntimeError('imported')")
    install("tgi.plugins", "broken-too", "raise RuntimeError('imported')")

    assert "broken" in [entry.name for entry in installed(PluginKind.BACKEND)]
    plugins = {entry.name: entry for entry in installed(PluginKind.PLUGIN)}
    assert plugins["broken-too"].distribution == "dist-broken-too"
    assert plugins["broken-too"].version == "1.5"


def test_entries_are_ordered_by_name(install):
    for name in ("zebra", "ant", "mole"):
        install.backend(name)
    names = [entry.name for entry in installed(PluginKind.BACKEND)]
    assert names == sorted(names)


def test_an_unknown_name_lists_what_is_installed_and_how_to_install(install):
    install.backend("here")
    with pytest.raises(UnknownPlugin) as error:
        find(PluginKind.BACKEND, "absent")
    message = str(error.value)
    for part in ("'absent'", "here (dist-here 1.5)", "fake (tgi-core", "pip install"):
        assert part in message


def test_one_name_of_two_distributions_is_a_conflict_that_names_both(install):
    install.backend("twin", distribution="castor")
    install.backend("twin", distribution="pollux")
    with pytest.raises(PluginConflict, match=r"castor 1\.5 .* pollux 1\.5"):
        find(PluginKind.BACKEND, "twin")


def test_a_backend_and_a_plugin_may_share_a_name(install):
    install.backend("shared", distribution="one")
    install.plugin("shared", "", distribution="two")
    assert find(PluginKind.BACKEND, "shared").distribution == "one"
    assert find(PluginKind.PLUGIN, "shared").distribution == "two"


def test_the_catalog_imports_neither_numpy_nor_pluggys_plugins():
    code = (
        "import sys; from tgi_core.plugin.catalog import PluginKind, installed;"
        "installed(PluginKind.BACKEND); print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "numpy" not in modules
    assert "tgi_core.testing.fake" not in modules
