"""deploy/kubernetes and the Dockerfile: what a cluster would refuse, and what they promise."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from mounting import Serving, files_below, inherited, needs_mount_namespace
from mounting import expected as files_of

from pictofs.app import mount_table, probe
from pictofs.config import MountSettings
from standin import PRESETS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
PASSER = FOLDER / "pictofs_fuse.py"
AS_USER = ROOT / "tests/user/as_user.py"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
UID = 10001
WORD = re.compile(r"^\s*# - (--shared=\S+)$", re.MULTILINE)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod_of(name: str) -> dict[str, Any]:
    """The specification of the pod that mounts."""
    found: list[dict[str, Any]] = [
        each["spec"]["template"]["spec"]
        for each in documents(FOLDER / name)
        if "template" in each.get("spec", {})
    ]
    (pod,) = found
    return pod


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in [*pod.get("initContainers", []), *pod["containers"]]}


# What a cluster would refuse.


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, version: str) -> None:
    """By the schemas of Kubernetes, which know every field."""
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_volumes_and_selectors_fit(path: Path) -> None:
    """What the schemas can't tell, and the API server or the kubelet refuses."""
    for document in documents(path):
        spec = document.get("spec", {})
        pod = spec.get("template", {}).get("spec", spec)
        if "containers" not in pod:
            continue

        volumes = {each["name"] for each in pod["volumes"]}
        for container in containers(pod).values():
            mounts = container.get("volumeMounts", [])
            assert {each["name"] for each in mounts} <= volumes

            # Refused for containers that are not privileged.
            shares = any(each.get("mountPropagation") == "Bidirectional" for each in mounts)
            assert container["securityContext"].get("privileged", False) is shares

        if "selector" in spec:
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items()


# What they promise.


@pytest.mark.parametrize("name", ["daemonset.yaml", "sidecar.yaml"])
def test_the_container_with_the_key_has_no_right(name: str) -> None:
    pod = pod_of(name)
    found = containers(pod)
    mounter = found["mounter"]
    pictofs = found["pictofs"]
    safe = pictofs["securityContext"]

    assert safe["runAsNonRoot"] is True
    assert safe["runAsUser"] == UID
    assert safe["allowPrivilegeEscalation"] is False
    assert safe["capabilities"] == {"drop": ["ALL"]}

    # The key is for it alone, and is no argument.
    keys = [
        each["name"]
        for each in found.values()
        if "secretKeyRef" in json.dumps(each) or "secret" in json.dumps(each.get("volumeMounts"))
    ]
    assert keys == ["pictofs"]
    assert all("secret" not in volume for volume in pod["volumes"])

    # Both know one place, and the other containers no way to ask for a descriptor.
    *_, place = pictofs["args"]
    assert mounter["command"] == ["pictofs-fuse", "serve", pictofs["command"][2], place]
    assert mounter["lifecycle"]["preStop"]["exec"]["command"] == [
        *("pictofs", "unmount", "--lazy", place)
    ]
    assert pictofs["readinessProbe"]["exec"]["command"] == ["pictofs", "status", place]
    shared = [
        each["name"]
        for each in found.values()
        if any(mount["name"] == "handover" for mount in each.get("volumeMounts", []))
    ]
    assert sorted(shared) == ["mounter", "pictofs"]


@pytest.mark.parametrize("name", ["daemonset.yaml", "sidecar.yaml"])
def test_its_options_are_understood(name: str) -> None:
    program, command, *options, place = containers(pod_of(name))["pictofs"]["args"]
    given: dict[str, str | bool | None] = {}
    for option in options:
        flag, equals, value = option.partition("=")
        given[flag[2:].replace("-", "_")] = value.replace("{}", "7") if equals else True
    settings = MountSettings.load(Path(place), given, {})

    assert (program, command) == ("pictofs", "mount")
    assert set(given) <= set(vars(settings))
    assert (settings.fuse_fd, settings.foreground, settings.allow_other) == (7, True, True)

    # The line to uncomment names the engine of valkey.yaml.
    (line,) = WORD.findall((FOLDER / name).read_text())
    service = next(each for each in documents(FOLDER / "valkey.yaml") if each["kind"] == "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert line == f"--shared=redis://{host}:{service['spec']['ports'][0]['port']}/0"


def test_the_sidecar_is_one() -> None:
    """It begins before the training, which waits until it answers, and does not hold up its end."""
    pod = pod_of("sidecar.yaml")
    assert [(each["name"], each["restartPolicy"]) for each in pod["initContainers"]] == [
        ("mounter", "Always"),
        ("pictofs", "Always"),
    ]
    probes = [each.get("startupProbe") for each in pod["initContainers"]]
    assert probes[0] is None
    assert probes[1]["exec"]["command"][:2] == ["pictofs", "status"]


# The two halves, as the containers start them.


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point in a volume: what is mounted there by one container shows in the others."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)

    volume = tmp_path / "mounts"
    volume.mkdir()
    subprocess.run(["mount", "--bind", volume, volume], check=True)
    subprocess.run(["mount", "--make-shared", volume], check=True)
    yield volume / "picto"
    subprocess.run(["umount", "--recursive", "--lazy", volume], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who mounts")
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
@needs_mount_namespace
def test_m8_a_mount_that_two_containers_make(serving: Serving, tmp_path: Path, place: Path) -> None:
    server = serving(PRESETS["small"]())
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, UID, UID)
    environ = {
        **inherited(),
        "HOME": str(own),
        "TMPDIR": str(own),
        "XDG_RUNTIME_DIR": "",
        "NO_PROXY": "127.0.0.1",
        "PICTOFS_CACHE_DIR": str(own / "cache"),
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
    }
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A unix socket's path is short.
    mounter = subprocess.Popen(
        [sys.executable, PASSER, "serve", "handover", place], cwd=tmp_path, **streams
    )
    assert mounter.stdout is not None
    assert mounter.stdout.readline()

    def container() -> subprocess.Popen[bytes]:
        """A user without rights, who sees what is mounted later."""
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "unchanged", sys.executable, AS_USER),
                *(str(UID), str(UID), tmp_path, "setpriv", "--no-new-privs"),
                *(sys.executable, PASSER, "run", "handover", "--"),
                *(sys.executable, "-m", "pictofs", "mount", "--foreground", "--fuse-fd={}"),
                *("--allow-other", place),
            ],
            env=environ,
            **streams,
        )
        assert process.stdout is not None
        assert process.stdout.readline(), process.communicate()
        return process

    made = []
    try:
        made.append(container())
        small = place / "datasets/small"

        assert files_below(small) == files_of(server, server.organization["small"])

        found = mount_table.mount_at(place)
        assert found is not None
        assert (found.ours, found.owner) == (True, UID)

        # A container that dies leaves a broken folder, and not an empty one; the next mends it.
        made[0].kill()
        made[0].wait(60)
        assert probe.state_of(place) == "stale"
        made.append(container())
        assert len([each for each in mount_table.all_mounts() if each.path == place]) == 1
        assert files_below(small) == files_of(server, server.organization["small"])

        # preStop, by which the other container ends, then SIGTERM.
        command = [sys.executable, "-m", "pictofs", "unmount", "--lazy", str(place)]
        done = subprocess.run(command, env=environ, capture_output=True, timeout=60)
        mounter.terminate()

        assert (done.returncode, done.stderr) == (0, b"")
        assert (mounter.wait(60), made[1].wait(60)) == (0, 0)
        assert mount_table.mount_at(place) is None
    finally:
        for process in (mounter, *made):
            process.kill()
            process.communicate(timeout=60)


def test_what_can_t_be_passed_on_is_said(tmp_path: Path) -> None:
    """By `serve` without the right to mount, and by `run` that gets nothing."""
    serve = subprocess.Popen(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] * (os.geteuid() == 0)
        + [sys.executable, str(PASSER), "serve", "handover", "mnt"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serve.stdout is not None
    assert serve.stdout.readline()

    command = [sys.executable, PASSER, "run", "handover", "--", "true", "{}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    serve.terminate()
    _, err = serve.communicate(timeout=60)

    assert (done.returncode, serve.returncode) == (1, 0)
    assert "nothing was mounted" in done.stderr
    assert err.startswith("not mounted: ")
    assert done.stderr.count("Traceback") + err.count("Traceback") == 0


# The image.


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word
    ]


def test_the_image_runs_as_the_manifests_user() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")

    assert users == [f"{UID}:{UID}"]
    assert f"useradd --uid {UID} --user-group" in runs
    assert instructions().index(("USER", users[0])) > instructions().index(
        next(each for each in instructions() if each[1].startswith("ln -s"))
    )


def test_the_image_is_made_of_a_clean_checkout(tmp_path: Path) -> None:
    """What .dockerignore lets through of the files that git keeps is all that the build needs."""
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = [rule[1:] for rule in rules if rule.startswith("!")]
    context = tmp_path / "src"
    for name in kept:
        path = Path(name)
        if (ROOT / name).exists() and any(
            path.match(rule) or path.is_relative_to(rule) for rule in wanted
        ):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_bytes((ROOT / name).read_bytes())

    sources = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert sources == [".", PASSER.relative_to(ROOT).as_posix()]
    assert all((context / source).exists() for source in sources)

    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=context,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("pictofs-*.whl"))) == 1
