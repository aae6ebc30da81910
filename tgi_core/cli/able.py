"""Commands that a backend carries out ahead of time: which backend does it."""

from __future__ import annotations

from collections.abc import Callable

from tgi_core.builtin import hub_source, local_source
from tgi_core.contract import BackendSpec, ModelFiles
from tgi_core.errors import BackendUnavailable, UsageError
from tgi_core.plugin.choose import choose_backend
from tgi_core.plugin.manager import Plugins


def find_able(
    model: str,
    revision: str | None,
    wanted: str | None,
    able: Callable[[BackendSpec], bool],
    what: str,
    not_able: str,
) -> tuple[ModelFiles, BackendSpec]:
    """The files of a model, and of the backends that are able the one that would serve it.

    Args:
        model: a folder, or a name on the hub.
        revision: on the hub.
        wanted: what `--backend` says, if anything.
        able: whether a backend can do it.
        what: what such a backend does, for errors: "converts models".
        not_able: what one does that is not, likewise.

    Raises:
        UsageError: the wanted backend does not do it.
        BackendUnavailable: no backend does.
        SetupError: as the model's source says.
    """
    plugins = Plugins(builtins=(hub_source, local_source))
    plugins.load_plugins()
    files = plugins.model_source(model, revision)
    if wanted is not None:
        spec = plugins.backend(files, wanted)
        if not able(spec):
            raise UsageError(f"the backend {wanted} {not_able}.")
        return files, spec
    backends = plugins.load_all_backends()
    specs = [spec for spec in backends.specs.values() if able(spec)]
    if not specs:
        raise BackendUnavailable(
            f'no installed backend {what}. For CPUs: pip install "tgi-core[cpu]"'
        )
    return files, choose_backend(files, None, specs, backends.failures)
