"""Where the heads of a model's files come from."""

from pathlib import Path
from types import ModuleType

from tgi_core.contract import ModelFiles, ModelFormat
from tgi_core.plugin import hookimpl
from tgi_core.plugin.manager import Plugins

HEADS = ModelFiles(reference="s3://m", path=Path("heads"), format=ModelFormat.SAFETENSORS)
WHOLE = ModelFiles(reference="org/m", path=Path("whole"), format=ModelFormat.SAFETENSORS)


@hookimpl
def tgi_model_heads(reference: str, folder: Path) -> ModelFiles | None:
    return HEADS if reference == "s3://m" else None


@hookimpl
def tgi_model_source(reference: str) -> ModelFiles:
    return WHOLE


def test_heads_come_from_who_has_them_and_else_whole_files_do(tmp_path: Path) -> None:
    store, hub = ModuleType("s3"), ModuleType("hub")
    store.tgi_model_heads = tgi_model_heads  # type: ignore[attr-defined]
    hub.tgi_model_source = tgi_model_source  # type: ignore[attr-defined]
    plugins = Plugins(builtins=[hub, store])
    assert plugins.model_heads("s3://m", None, tmp_path) is HEADS
    assert plugins.model_heads("org/m", None, tmp_path) is WHOLE
