import sys
from pathlib import Path
from types import ModuleType

import pytest

from tgi_core.contract import (
    BackendKind,
    Dialect,
    ModelFiles,
    ModelFormat,
    Route,
)
from tgi_core.errors import (
    BackendUnavailable,
    ModelNotFound,
    PluginConflict,
    PluginContractError,
    PluginLoadError,
    UnknownHook,
    UnknownPlugin,
)
from tgi_core.plugin import hookimpl
from tgi_core.plugin.manager import Plugins
from tgi_core.testing.fake import FakeBackend

FOLDER = ModelFiles(reference="org/model", path=Path("model"), format=ModelFormat.SAFETENSORS)


def module(name, **members):
    made = ModuleType(name)
    vars(made).update(members)
    return made


class Policy:
    def __init__(self, name):
        self.name = name

    def key(self, request, arrival):
        return (arrival,)


class TestLoadBackend:
    def test_the_fake_backend_loads_by_name(self):
        spec = Plugins().load_backend("fake")
        assert spec.name == "fake"
        assert spec.kind is BackendKind.STEP
        assert spec.create is FakeBackend

    def test_a_broken_backend_does_not_hurt_another_one(self, install):
        install("tgi.backends", "broken", "import no_such_library")
        install.backend("good")
        assert Plugins().load_backend("good").name == "good"
        assert not any("dist_broken" in name for name in sys.modules)

    def test_an_import_failure_names_distribution_version_and_cause(self, install):
        install("tgi.backends", "broken", "import no_such_library")
        with pytest.raises(PluginLoadError) as error:
            Plugins().load_backend("broken")
        assert "dist-broken 1.5" in str(error.value)
        assert "no_such_library" in str(error.value)
        assert isinstance(error.value.__cause__, ModuleNotFoundError)

    def test_an_unknown_name_lists_what_is_installed(self):
        with pytest.raises(UnknownPlugin, match="fake"):
            Plugins().load_backend("absent")

    def test_a_disabled_backend_says_that_it_is_disabled(self, install):
        install.backend("off")
        with pytest.raises(UnknownPlugin, match="disabled by --disable-plugin"):
            Plugins(disabled=frozenset({"off"})).load_backend("off")

    def test_a_doubled_name_is_a_conflict(self, install):
        install.backend("twin", distribution="castor")
        install.backend("twin", distribution="pollux")
        with pytest.raises(PluginConflict, match=r"castor.*pollux"):
            Plugins().load_backend("twin")

    @pytest.mark.parametrize("contract", [(2, 0), (0, 9), (1, 99)])
    def test_another_contract_is_refused_naming_both_versions(self, install, contract):
        install.backend("other", contract=contract)
        with pytest.raises(PluginContractError) as error:
            Plugins().load_backend("other")
        assert ".".join(map(str, contract)) in str(error.value)
        assert "dist-other" in str(error.value)

    @pytest.mark.parametrize("contract", ["1.0", (1,), (1, 0, 0), ("1", "0")])
    def test_a_contract_that_is_no_pair_of_integers_is_refused(self, install, contract):
        install.backend("odd", contract=contract)
        with pytest.raises(PluginLoadError, match="pair of integers"):
            Plugins().load_backend("odd")

    def test_the_spec_must_have_the_name_of_the_entry_point(self, install):
        install.backend("here", says="elsewhere")
        with pytest.raises(PluginLoadError, match="calls itself 'elsewhere'"):
            Plugins().load_backend("here")

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            ("@hookimpl\ndef tgi_backend(): return {'name': 'odd'}", "dict.*not a BackendSpec"),
            ("@hookimpl\ndef tgi_backend(): raise OSError('no driver')", "OSError: no driver"),
            ("@hookimpl\ndef tgi_backend(device): pass", "device"),
            ("@hookimpl\ndef tgi_backend(device=0): pass", "default"),
            ("def tgi_backend(): pass", "without @hookimpl"),
            ("", "no hook"),
            ("@hookimpl\ndef tgi_queue_policies(): return []", "nothing else"),
        ],
    )
    def test_a_faulty_module_is_refused_with_its_fault(self, install, source, complaint):
        head = "from tgi_core.plugin import hookimpl\n"
        install("tgi.backends", "odd", head + source)
        with pytest.raises(PluginLoadError, match=complaint) as error:
            Plugins().load_backend("odd")
        assert "dist-odd 1.5" in str(error.value)


class TestLoadAllBackends:
    def test_failures_are_reported_and_not_dropped(self, install):
        install.backend("good")
        install("tgi.backends", "broken", "import no_such_library")
        install.backend("twin", distribution="castor")
        install.backend("twin", distribution="pollux")
        install.backend("off")

        backends = Plugins(disabled=frozenset({"off"})).load_all_backends()

        assert {"good", "fake"} <= set(backends.specs)
        assert isinstance(backends.failures["broken"], PluginLoadError)
        assert isinstance(backends.failures["twin"], PluginConflict)
        assert "off" not in {*backends.specs, *backends.failures}

    def test_a_wish_loads_nothing_but_the_wanted_backend(self, install):
        install.backend("good")
        install("tgi.backends", "loud", "raise SystemExit('imported')")
        assert Plugins().backend(FOLDER, "good").name == "good"

    def test_without_a_wish_the_error_tells_of_load_failures(self, install):
        install("tgi.backends", "broken", "import no_such_library")
        others = frozenset({"torch", "torch-encoder", "llamacpp", "openvino"})
        with pytest.raises(BackendUnavailable, match=r"broken: .*no_such_library"):
            Plugins(disabled=others).backend(FOLDER)

    def test_without_a_wish_the_backend_that_accepts_is_taken(self, install):
        install.backend("good")
        others = frozenset({"torch", "torch-encoder", "llamacpp", "openvino"})
        assert Plugins(disabled=others).backend(FOLDER).name == "good"


class TestLoadPlugins:
    def test_a_misspelt_hook_gets_its_right_name(self, install):
        install.plugin("typo", "@hookimpl\ndef tgi_queue_policy(): return []")
        with pytest.raises(UnknownHook) as error:
            Plugins().load_plugins()
        message = str(error.value)
        for part in ("'typo'", "dist-typo 1.5", "tgi_queue_policy,", "mean tgi_queue_policies?"):
            assert part in message

    def test_an_optional_hook_of_a_later_core_is_let_be(self, install):
        install.plugin(
            "modern",
            """
            @hookimpl(optionalhook=True)
            def tgi_of_tomorrow(): return None

            @hookimpl
            def tgi_queue_policies(): return []
            """,
        )
        plugins = Plugins()
        plugins.load_plugins()
        assert plugins.queue_policies() == {}

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            ("@hookimpl\ndef tgi_model_source(url): pass", "url"),
            ("@hookimpl\ndef tgi_model_source(reference=''): pass", "default"),
            ("@hookimpl\ndef tgi_model_source(*, reference): pass", "plain argument"),
            ("@hookimpl\ndef tgi_model_source(**all): pass", "plain argument"),
            ("@hookimpl(wrapper=True)\ndef tgi_model_source(): return (yield)", "wraps"),
            ("def tgi_model_source(reference): pass", "without @hookimpl"),
            ("@hookimpl\ndef tgi_backend(): pass", "belongs into the group tgi.backends"),
            ("", "no hook"),
        ],
    )
    def test_a_plugin_with_a_fault_never_becomes_part_of_the_run(self, install, source, complaint):
        install.plugin("odd", source)
        plugins = Plugins()
        with pytest.raises(PluginLoadError, match=complaint) as error:
            plugins.load_plugins()
        assert "dist-odd 1.5" in str(error.value)
        with pytest.raises(ModelNotFound):
            plugins.model_source("org/model")

    def test_a_disabled_plugin_is_not_imported(self, install):
        install.plugin("off", "raise RuntimeError('imported')")
        Plugins(disabled=frozenset({"off"})).load_plugins()

    def test_installed_plugins_are_left_out_until_they_are_loaded(self, install):
        install.plugin("off", "raise RuntimeError('imported')")
        policies = module("builtin", tgi_queue_policies=hookimpl(lambda: [Policy("fcfs")]))
        assert list(Plugins(builtins=[policies]).queue_policies()) == ["fcfs"]

    def test_two_installed_plugins_of_one_name_are_a_conflict(self, install):
        source = "@hookimpl\ndef tgi_queue_policies(): return []"
        install.plugin("twin", source, distribution="castor")
        install.plugin("twin", source, distribution="pollux")
        with pytest.raises(PluginConflict, match=r"castor.*pollux"):
            Plugins().load_plugins()

    def test_a_plugin_cannot_take_the_place_of_a_built_in_one_in_silence(self, install):
        source = "@hookimpl\ndef tgi_queue_policies(): return []"
        install.plugin("fcfs", source)
        builtin = module("core.fcfs", tgi_queue_policies=hookimpl(lambda: []))
        with pytest.raises(PluginConflict, match=r"dist-fcfs.*tgi-core"):
            Plugins(builtins=[builtin]).load_plugins()

    def test_a_built_in_plugin_can_be_disabled(self):
        builtin = module("core.fcfs", tgi_queue_policies=hookimpl(lambda: [Policy("fcfs")]))
        plugins = Plugins(disabled=frozenset({"fcfs"}), builtins=[builtin])
        assert plugins.queue_policies() == {}

    def test_a_built_in_plugin_is_validated_like_any_other(self):
        builtin = module("core.typo", tgi_queue_policie=hookimpl(lambda: []))
        with pytest.raises(UnknownHook, match="tgi_queue_policies"):
            Plugins(builtins=[builtin])

    def test_two_managers_share_nothing(self):
        builtin = module("core.fcfs", tgi_queue_policies=hookimpl(lambda: [Policy("fcfs")]))
        assert list(Plugins(builtins=[builtin]).queue_policies()) == ["fcfs"]
        assert Plugins().queue_policies() == {}


class TestModelSource:
    def test_an_installed_plugin_is_asked_before_a_built_in_one(self, install):
        install.plugin(
            "store",
            """
            from pathlib import Path
            from tgi_core.contract import ModelFiles, ModelFormat

            @hookimpl
            def tgi_model_source(reference):
                if reference.startswith("store://"):
                    path = Path("from-store")
                    return ModelFiles(reference=reference, path=path, format=ModelFormat.OTHER)
            """,
        )
        builtin = module("hub", tgi_model_source=hookimpl(lambda reference: FOLDER))
        plugins = Plugins(builtins=[builtin])
        plugins.load_plugins()
        assert plugins.model_source("store://m").path == Path("from-store")
        assert plugins.model_source("org/model") is FOLDER

    def test_a_reference_that_nobody_knows_is_not_found(self):
        with pytest.raises(ModelNotFound, match="org/absent"):
            Plugins().model_source("org/absent")

    def test_an_error_of_ours_passes_as_it_is(self):
        def lost(reference):
            raise ModelNotFound("the bucket is empty")

        with pytest.raises(ModelNotFound, match="bucket is empty"):
            Plugins(builtins=[module("s3", tgi_model_source=hookimpl(lost))]).model_source("s3://")

    def test_a_wrong_answer_names_the_plugin(self):
        builtin = module("hub", tgi_model_source=hookimpl(lambda reference: "a/path"))
        with pytest.raises(PluginLoadError, match=r"plugin 'hub'.* str.*not a ModelFiles"):
            Plugins(builtins=[builtin]).model_source("org/model")

    def test_a_crash_names_the_plugin(self):
        builtin = module("hub", tgi_model_source=hookimpl(lambda reference: reference.path))
        with pytest.raises(PluginLoadError, match=r"plugin 'hub'.*AttributeError"):
            Plugins(builtins=[builtin]).model_source("org/model")


class TestLoadTokenizer:
    def test_nobody_knows_the_tokenizer(self):
        silent = module("silent", tgi_load_tokenizer=hookimpl(lambda files: None))
        assert Plugins(builtins=[silent]).load_tokenizer(FOLDER) is None

    def test_an_object_that_is_no_tokenizer_is_refused_with_what_it_lacks(self):
        class Half:
            vocab_size = 10

            def encode(self, text, *, add_special_tokens):
                return []

        half = module("half", tgi_load_tokenizer=hookimpl(lambda files: Half()))
        with pytest.raises(PluginLoadError) as error:
            Plugins(builtins=[half]).load_tokenizer(FOLDER)
        assert "Half, which is not a Tokenizer" in str(error.value)
        assert "decode" in str(error.value)
        assert "encode" not in str(error.value)


class TestQueuePolicies:
    def test_policies_of_all_plugins_are_known_by_name(self):
        builtins = [
            module("one", tgi_queue_policies=hookimpl(lambda: (Policy("a"), Policy("b")))),
            module("two", tgi_queue_policies=hookimpl(lambda: [Policy("c")])),
        ]
        assert set(Plugins(builtins=builtins).queue_policies()) == {"a", "b", "c"}

    def test_one_name_of_two_plugins_is_a_conflict_that_names_both(self):
        builtins = [
            module(name, tgi_queue_policies=hookimpl(lambda: [Policy("same")]))
            for name in ("one", "two")
        ]
        with pytest.raises(PluginConflict, match=r"'same'.*'two'.*'one'"):
            Plugins(builtins=builtins).queue_policies()

    @pytest.mark.parametrize("answer", [None, "fcfs", [object()], 7])
    def test_a_wrong_answer_names_the_plugin(self, answer):
        builtin = module("odd", tgi_queue_policies=hookimpl(lambda: answer))
        with pytest.raises(PluginLoadError, match="plugin 'odd'"):
            Plugins(builtins=[builtin]).queue_policies()


class Sink:
    def __init__(self, name):
        self.name = name

    def finished(self, request):
        pass

    def close(self):
        pass


class TestRequestSinks:
    def test_all_plugins_are_asked_and_told_where_traces_should_go(self):
        def told(otlp_endpoint, otlp_service_name):
            return [Sink(f"{otlp_endpoint} {otlp_service_name}")]

        builtins = [
            module("one", tgi_request_sinks=hookimpl(lambda: [Sink("a")])),
            module("two", tgi_request_sinks=hookimpl(told)),
        ]
        assert set(Plugins(builtins=builtins).request_sinks("there", "me")) == {"a", "there me"}

    def test_one_name_of_two_plugins_is_a_conflict_that_names_both(self):
        builtins = [
            module(name, tgi_request_sinks=hookimpl(lambda: [Sink("same")]))
            for name in ("one", "two")
        ]
        with pytest.raises(PluginConflict, match=r"sink.*'same'.*'two'.*'one'"):
            Plugins(builtins=builtins).request_sinks(None, "me")

    @pytest.mark.parametrize("answer", [None, "otlp", [Policy("x")], 7])
    def test_a_wrong_answer_names_the_plugin(self, answer):
        builtin = module("odd", tgi_request_sinks=hookimpl(lambda: answer))
        with pytest.raises(PluginLoadError, match="plugin 'odd'"):
            Plugins(builtins=[builtin]).request_sinks(None, "me")


class TestRoutes:
    def dialect(self, name, *paths, contract=(1, 0), routes=None):
        made = [Route(method="GET", path=path, handler=print) for path in paths]
        return Dialect(
            name=name,
            contract=contract,
            routes=made if routes is None else routes,
            failure=print,
        )

    def plugins(self, **answers):
        def hook(answer):
            return hookimpl(lambda: answer)

        return Plugins(
            builtins=[module(name, tgi_routes=hook(answer)) for name, answer in answers.items()]
        )

    def test_dialects_of_all_plugins_come_in_order_of_name(self):
        plugins = self.plugins(
            one=[self.dialect("b", "/b"), self.dialect("c", "/c")], two=(self.dialect("a", "/a"),)
        )
        assert [dialect.name for dialect in plugins.routes()] == ["a", "b", "c"]

    def test_one_address_of_two_plugins_is_a_conflict_that_names_both(self):
        plugins = self.plugins(one=[self.dialect("a", "/x")], two=[self.dialect("b", "/y", "/x")])
        with pytest.raises(PluginConflict, match=r"GET /x .*'two'.*'one'"):
            plugins.routes()

    def test_a_dialect_for_another_contract_is_refused(self):
        plugins = self.plugins(odd=[self.dialect("a", "/x", contract=(1, 99))])
        with pytest.raises(PluginContractError, match=r"1\.99"):
            plugins.routes()

    @pytest.mark.parametrize("answer", [None, "dialect", [object()], 7])
    def test_a_wrong_answer_names_the_plugin(self, answer):
        with pytest.raises(PluginLoadError, match="plugin 'odd'"):
            self.plugins(odd=answer).routes()

    def test_a_route_that_is_none_names_the_plugin(self):
        with pytest.raises(PluginLoadError, match=r"plugin 'odd'.*not a Route"):
            self.plugins(odd=[self.dialect("a", routes=["/x"])]).routes()
