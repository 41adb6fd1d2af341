"""Deploys overlays/local on the cluster of the kubeconfig, and breaks things under load without a failed search.

    python -m k8s.e2e --image lookalike:local --next-image lookalike:next \
        --models s/models/1 --index s/index --next-index t/index --photo photo.jpg

The folders are what `lookalike models push` and `lookalike index push` wrote; the images are in the local docker; the
photo is under 1 MB. All goes into the namespace `lookalike`, which must not exist, and is removed at the end.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
NAMESPACE = "lookalike"


def run(*command: str | Path, data: bytes | None = None) -> str:
    """Run a command and return its output; end the check with its words when it fails."""
    try:
        done = subprocess.run(command, input=data, capture_output=True)
    except FileNotFoundError:
        sys.exit(f"e2e: {command[0]} is not installed")
    if done.returncode:
        sys.exit(f"e2e: {' '.join(map(str, command))}: {done.stderr.decode().strip() or done.stdout.decode().strip()}")
    return done.stdout.decode()


def kubectl(*arguments: str | Path, data: bytes | None = None) -> str:
    """Run kubectl in the namespace."""
    return run(KUBECTL, "--namespace", NAMESPACE, *arguments, data=data)


def load_image(image: str) -> None:
    """Bring an image from the local docker to the cluster's nodes."""
    context = run(KUBECTL, "config", "current-context").strip()
    if context.startswith("kind-"):
        run("kind", "load", "docker-image", image, "--name", context.removeprefix("kind-"))
    elif context.startswith("k3d-"):
        run("k3d", "image", "import", image, "--cluster", context.removeprefix("k3d-"))
    else:
        run("docker", "push", image)


def helper_pod(name: str, image: str, command: list[str], mounts: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return a restricted pod of the product's own image, which may call the router."""
    context = {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": name,
        "image": image,
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": volume, "mountPath": f"/{volume}"} for volume in mounts],
    }
    volumes = [{"name": volume, **source} for volume, source in mounts.items()]
    spec = {"automountServiceAccountToken": False, "securityContext": context, "restartPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"lookalike/client": "true"}},
        "spec": spec | {"containers": [container], "volumes": volumes},
    }


def packed(folders: dict[str, Path]) -> bytes:
    """Return a tar of the files in folders, under other names; what names a version comes after its files."""
    buffer = io.BytesIO()
    files = [(f"{name}/{one.relative_to(top)}", one) for name, top in folders.items() for one in top.rglob("*")]
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, file in sorted(files, key=lambda pair: pair[0].endswith("CURRENT")):
            if file.is_file():
                tar.add(file, name)
    return buffer.getvalue()


def fill_store(folders: dict[str, Path]) -> None:
    """Put folders into the store's volume, through the pod that has it."""
    unpack = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/store'); print('all')"
    # Its word counts: kubectl's exit status may be 0 when the command failed while its input was still on the way.
    if kubectl("exec", "-i", "publisher", "--", "python", "-c", unpack, data=packed(folders)).strip() != "all":
        sys.exit("e2e: the store could not be filled")


def apply_overlay(image: str) -> None:
    """Apply overlays/local with the image that is tested."""
    manifests = run(KUBECTL, "kustomize", ROOT / "k8s/overlays/local").replace(
        "image: lookalike:local", f"image: {image}"
    )
    run(KUBECTL, "apply", "-f", "-", data=manifests.encode())


def start_load(image: str, photo: Path, clients: int) -> None:
    """Start searching, from a pod inside the cluster."""
    kubectl("create", "configmap", "load", f"--from-file={Path(__file__).with_name('load.py')}", f"--from-file={photo}")
    url = f"http://router.{NAMESPACE}:8080/predictions/search"
    command = ["python", "/load/load.py", url, f"/load/{photo.name}", str(clients)]
    pod = helper_pod("load", image, command, {"load": {"configMap": {"name": "load"}}})
    kubectl("apply", "-f", "-", data=json.dumps(pod).encode())
    kubectl("wait", "pod/load", "--for=condition=Ready", "--timeout=60s")


def stop_load() -> dict[str, list[str]]:
    """Stop the load and return what it counted."""
    kubectl("exec", "load", "--", "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    kubectl("wait", "pod/load", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    return dict(json.loads(kubectl("logs", "load").splitlines()[-1]))


def ready() -> None:
    """Wait until every router pod is ready."""
    kubectl("rollout", "status", "deployment/router", "--timeout=10m")


def checks(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Deploy, then kill, roll and rotate under load; return what the load counted."""
    apply_overlay(arguments.image)
    sleeping = ["python", "-c", "import time; time.sleep(3600)"]
    store = {"store": {"persistentVolumeClaim": {"claimName": "store"}}}
    kubectl("apply", "-f", "-", data=json.dumps(helper_pod("publisher", arguments.image, sleeping, store)).encode())
    kubectl("wait", "pod/publisher", "--for=condition=Ready", "--timeout=300s")
    fill_store({"models/1": arguments.models, "index": arguments.index})
    ready()
    start_load(arguments.image, arguments.photo, arguments.clients)
    time.sleep(20)
    pods = kubectl("get", "pods", "-l", "app.kubernetes.io/name=router", "-o", "name").split()
    kubectl("delete", pods[0])
    ready()
    kubectl("set", "image", "deployment/router", f"*={arguments.next_image}")
    ready()
    fill_store({"index": arguments.next_index})
    time.sleep(60)
    return stop_load()


def main() -> None:
    """Run the check; the exit code is 0 when no search failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="lookalike:local")
    parser.add_argument("--next-image", default="lookalike:next", help="what is rolled to")
    for name in ("models", "index", "next-index", "photo"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--loaded", action="store_true", help="the nodes have the images already (minikube's docker)")
    arguments = parser.parse_args()
    run(KUBECTL, "version", "--request-timeout=10s")  # the clear line where no cluster answers
    if run(KUBECTL, "get", "namespace", NAMESPACE, "--ignore-not-found").strip():
        sys.exit(f"e2e: the namespace {NAMESPACE} exists: this check would overwrite and remove it")
    for image in () if arguments.loaded else (arguments.image, arguments.next_image):
        load_image(image)
    try:
        counted = checks(arguments)
    finally:
        run(KUBECTL, "delete", "namespace", NAMESPACE, "--timeout=300s", "--ignore-not-found")
    sys.stdout.write(json.dumps(counted, indent=2) + "\n")
    swapped = len(counted["versions"]) == 2
    sys.exit(0 if not counted["failures"] and swapped else "e2e: searches failed, or the new index never came")


if __name__ == "__main__":
    main()
