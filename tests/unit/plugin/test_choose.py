from dataclasses import replace
from pathlib import Path

import pytest

from tgi_core.contract import BackendSpec, ModelFiles, ModelFormat, Probe, Verdict
from tgi_core.errors import BackendUnavailable, PluginLoadError, UnknownPlugin, UsageError
from tgi_core.plugin.choose import choose_backend, probe, refuse_shards
from tgi_core.testing.fake import FakeBackend

FOLDER = ModelFiles(reference="org/model", path=Path("model"), format=ModelFormat.SAFETENSORS)
GGUF = ModelFiles(reference="m.gguf", path=Path("m.gguf"), format=ModelFormat.GGUF)


def spec(name, *, priority=0, accepts=True, available=True, probe=None):
    return BackendSpec(
        name=name,
        contract=(1, 0),
        probe=probe or (lambda: Probe(available=available, reason=f"no device for {name}")),
        accepts=lambda files: Verdict(accepts, "" if accepts else f"{name} wants other files"),
        create=FakeBackend,
        priority=priority,
    )


def never():
    raise AssertionError("this backend must not be probed")


def test_the_name_wins_over_priority_and_verdict():
    wanted = spec("wanted", accepts=False)
    assert choose_backend(FOLDER, "wanted", [spec("better", priority=100), wanted]) is wanted


def test_only_the_wanted_backend_is_probed():
    wanted = spec("wanted")
    assert choose_backend(FOLDER, "wanted", [spec("other", probe=never), wanted]) is wanted


def test_the_wanted_backend_that_is_not_available_says_why():
    with pytest.raises(BackendUnavailable, match="no device for wanted"):
        choose_backend(FOLDER, "wanted", [spec("wanted", available=False), spec("other")])


def test_a_wanted_name_that_nobody_has_is_unknown():
    with pytest.raises(UnknownPlugin, match=r"'absent'.* other"):
        choose_backend(FOLDER, "absent", [spec("other")])


def test_the_wanted_backends_load_failure_is_raised():
    failure = PluginLoadError("no such library")
    with pytest.raises(PluginLoadError, match="no such library"):
        choose_backend(FOLDER, "broken", [spec("other")], {"broken": failure})


def test_the_highest_priority_is_taken():
    best = spec("best", priority=100)
    assert choose_backend(FOLDER, None, [spec("cpu"), best, spec("other")]) is best


def test_lower_priorities_are_not_probed_when_a_higher_one_is_available():
    best = spec("best", priority=100)
    assert choose_backend(FOLDER, None, [spec("cpu", probe=never), best]) is best


def test_a_backend_that_declines_the_files_is_not_probed():
    only = spec("only")
    declines = spec("declines", priority=100, accepts=False, probe=never)
    assert choose_backend(FOLDER, None, [only, declines]) is only


def test_an_unavailable_device_falls_back_to_the_next_priority():
    cpu = spec("cpu")
    assert choose_backend(FOLDER, None, [spec("gpu", priority=9, available=False), cpu]) is cpu


def test_one_that_others_are_better_than_is_taken_by_its_name_alone():
    cpu = spec("cpu")
    found = Probe(available=True, by_name_only=True, reason="slow here")
    slow = spec("slow", priority=9, probe=lambda: found)
    assert choose_backend(FOLDER, None, [slow, cpu]) is cpu
    assert choose_backend(FOLDER, "slow", [slow, cpu]) is slow
    with pytest.raises(BackendUnavailable, match="slow: slow here"):
        choose_backend(FOLDER, None, [slow])


def test_two_alike_are_an_error_that_names_both_and_the_flag():
    with pytest.raises(BackendUnavailable) as error:
        choose_backend(FOLDER, None, [spec("b"), spec("a")])
    assert "a and b" in str(error.value)
    assert "--backend a or --backend b" in str(error.value)


def test_none_lists_every_backend_with_its_reason():
    specs = [spec("picky", accepts=False), spec("absent", available=False)]
    with pytest.raises(BackendUnavailable) as error:
        choose_backend(FOLDER, None, specs, {"broken": PluginLoadError("cannot be imported")})
    message = str(error.value)
    assert "picky: picky wants other files" in message
    assert "absent: no device for absent" in message
    assert "broken: cannot be imported" in message


@pytest.mark.parametrize(
    ("files", "remedy"),
    [(GGUF, 'pip install "tgi-core[llamacpp]"'), (FOLDER, 'pip install "tgi-core[cpu]"')],
)
def test_none_names_the_extra_that_would_help(files, remedy):
    with pytest.raises(BackendUnavailable) as error:
        choose_backend(files, None, [spec("picky", accepts=False)])
    assert remedy in str(error.value)


def test_an_extra_that_is_installed_is_not_offered():
    with pytest.raises(BackendUnavailable) as error:
        choose_backend(FOLDER, None, [spec("torch", available=False)])
    assert "pip install" not in str(error.value)


def test_a_probe_that_raises_makes_its_backend_unavailable_with_the_cause():
    def broken():
        raise OSError("libdevice.so not found")

    cpu = spec("cpu")
    gpu = spec("gpu", priority=9, probe=broken)
    assert choose_backend(FOLDER, None, [gpu, cpu]) is cpu
    assert "libdevice.so" in probe(gpu).reason


def test_a_probe_that_returns_something_else_makes_its_backend_unavailable():
    assert "bool, not a Probe" in probe(spec("odd", probe=lambda: True)).reason


def test_a_better_backend_that_was_passed_over_is_named_with_its_reason(caplog):
    backends = [spec("fast", priority=10, accepts=False), spec("any"), spec("odd", accepts=False)]
    with caplog.at_level("INFO", "tgi_core.plugin.choose"):
        assert choose_backend(FOLDER, None, backends).name == "any"
    assert caplog.messages == ["any serves the model, not fast: fast wants other files"]


def test_several_devices_are_refused_for_a_backend_that_uses_one():
    one, many = spec("one"), replace(spec("many"), shards=True)
    for backend, number in ((one, None), (one, 1), (many, 2)):
        refuse_shards(backend, number)
    with pytest.raises(UsageError, match=r"one runs a model on one device, .* asks for 2"):
        refuse_shards(one, 2)
