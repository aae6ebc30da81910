"""The images of docker/: there is one for each backend, linted, and alike where they should be."""

import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
BIN = Path(sys.executable).parent
IMAGES = {"torch": "cpu", "openvino": "cpu"}
"""Of backends whose image has another name."""


def name(file: Path) -> str:
    return file.name.partition(".")[0]


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **more)


def test_every_backend_has_an_image():
    backends = [path.name for path in (ROOT / "backends").iterdir() if path.is_dir()]
    assert backends
    missing = {IMAGES.get(one, one) for one in backends} - {name(file) for file in FILES}
    assert not missing, f"write docker/{missing}.Dockerfile"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_an_image_installs_an_extra_that_exists(file):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    [wanted] = re.findall(r'"tgi-core\[([\w,]+)\]"', file.read_text())
    backend, *plugins = wanted.split(",")
    assert backend == name(file)
    assert set(plugins) <= set(extras)
    # an image may be written before its backend
    assert backend in extras or not (ROOT / "backends" / backend).exists()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_hadolint_finds_nothing(file):
    done = run(BIN / "hadolint", "--no-color", "-c", DOCKER / "hadolint.yaml", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_images_have_in_common_is_the_same_to_the_letter():
    """Entry point, user, volume, port and health check; each begins with how to run it."""
    ends = {}
    for file in FILES:
        text = file.read_text()
        _, mark, end = text.partition("COPY --chmod=755 docker/entrypoint.sh")
        assert mark
        ends[end.replace(f"DOCKER_LABEL={name(file)}\n", "DOCKER_LABEL=\n")] = file
        assert text.count("\n") <= 40, "short, so that it is read"
        assert re.search(r"^#   docker run .*-p 8080:80|^#     -p 8080:80", text, re.MULTILINE)
    [end] = ends
    for words in ("USER 10000", "PORT=80", "EXPOSE 80", "HOME=/data HF_HOME=/data", "HEALTHCHECK"):
        assert words in end


def test_a_build_sees_the_wheels_and_the_entry_point_only():
    seen = (ROOT / ".dockerignore").read_text().split()
    assert seen == ["*", "!dist/*.whl", "!docker/entrypoint.sh"]


@pytest.fixture
def launcher(tmp_path):
    """What the entry point starts instead of ours; tells its port and its arguments."""
    for program in ("text-generation-launcher", "tgi"):
        file = tmp_path / program
        file.write_text(f'#!/bin/sh\necho {program} "$PORT" "$@"\n')
        file.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "PORT": "80"}


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        ("--model-id org/name", "text-generation-launcher 80 --model-id org/name"),
        ("", "text-generation-launcher 80"),
        ("serve", "text-generation-launcher 8080"),
        ("serve --json-output", "text-generation-launcher 8080 --json-output"),
        ("tgi backends --json", "tgi 80 backends --json"),
    ],
)
def test_the_entry_point_starts_what_tgi_starts(arguments, started, launcher):
    done = run(DOCKER / "entrypoint.sh", *arguments.split(), env=launcher)
    assert (done.returncode, done.stdout.strip()) == (0, started)


def test_the_entry_point_is_replaced_by_the_server_which_then_gets_the_signals(launcher, tmp_path):
    (tmp_path / "text-generation-launcher").write_text("#!/bin/sh\necho $$\n")
    with subprocess.Popen(
        [DOCKER / "entrypoint.sh"], env=launcher, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read().strip() == str(process.pid)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_the_server(status, healthy):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    [check] = set(
        re.findall(r'CMD \["python3", "-c", "(.+)"\]$', FILES[0].read_text(), re.MULTILINE)
    )
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        code = check.replace('\\"', '"')
        done = run(sys.executable, "-c", code, env={"PORT": str(server.server_port)})
        thread.join()
    assert (done.returncode == 0) is healthy


def test_the_compose_file_is_one_and_names_images_that_are_here():
    done = run(
        BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"
    )
    assert done.returncode == 0, done.stdout
    named = re.findall(
        r"dockerfile: docker/(\w+)\.Dockerfile", (DOCKER / "compose.yaml").read_text()
    )
    assert named and set(named) <= {name(file) for file in FILES}
