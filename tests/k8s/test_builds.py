"""Every overlay and every combination of components builds, and is valid by each Kubernetes version's strict schema."""

import itertools
import json
import os
from pathlib import Path

import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.k8s.manifests import COMPONENTS, OVERLAYS, ROOT, Manifest, build, of_kind, overlay

# 1.30 is the first that has the pause before a stop (preStop: sleep) without a feature gate.
OLDEST = 30
CUSTOM = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule, "ScaledObject": ScaledObject}
# all-in-one takes away what the others added for each workload, and gpu asks what is left.
LAST = ["all-in-one", "gpu"]
# These only add manifests of their own, so that each other combination is built with all of them and with none.
ADDING = ["index-build", "ingress", "monitoring", "network-policies"]
# After those that change every workload there is; thumbnails changes the gateway.
GATEWAY = ["gateway", "thumbnails"]
FREE = [name for name in COMPONENTS if name not in (*LAST, *ADDING, *GATEWAY, "autoscaling", "autoscaling-keda")]


def newest() -> int:
    return int(kubernetes_validate.version.__version__.split(".")[1])


VERSIONS = [f"1.{minor}" for minor in range(OLDEST, newest() + 1)]
_valid: set[tuple[str, str]] = set()


def check(manifest: Manifest, version: str) -> None:
    """Validate one manifest; the same one is looked at once in a run, as combinations share most of theirs."""
    text = json.dumps(manifest, sort_keys=True)
    if (text, version) in _valid:
        return
    if manifest["kind"] in CUSTOM:
        check_custom(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)
    _valid.add((text, version))


def check_custom(manifest: Manifest) -> None:
    """Validate a custom resource; what the schema does not know is lost in it, and so found."""
    kept = CUSTOM[manifest["kind"]].model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert lost(manifest, kept) == []


def lost(given: object, kept: object, at: str = "") -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        return [where for key in given for where in lost(given[key], kept.get(key), f"{at}.{key}")]
    if isinstance(given, list) and isinstance(kept, list):
        pairs = enumerate(zip(given, kept, strict=True))
        return [where for n, (one, other) in pairs for where in lost(one, other, f"{at}[{n}]")]
    return [at] if kept is None and given is not None else []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_valid(name: str, version: str) -> None:
    for manifest in overlay(name):
        check(manifest, version)


def test_the_schemas_are_strict() -> None:
    deployment = of_kind(overlay("local"), "Deployment")["router"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)
    rule = of_kind(overlay("production"), "PrometheusRule")["lookalike"]
    rule["spec"]["groups"][0]["rules"][0]["fro"] = "2m"
    with pytest.raises(AssertionError, match="fro"):
        check_custom(rule)


def combinations() -> list[tuple[str, ...]]:
    free = itertools.chain.from_iterable(itertools.combinations(FREE, n) for n in range(len(FREE) + 1))
    scaled: list[tuple[str, ...]] = [(), ("autoscaling",), ("autoscaling-keda",)]
    last = [(), ("all-in-one",), ("gpu",), ("all-in-one", "gpu")]
    added: list[tuple[str, ...]] = [(), tuple(ADDING)]
    gateway = [tuple(GATEWAY[:n]) for n in range(len(GATEWAY) + 1)]
    return [sum(chosen, ()) for chosen in itertools.product(added, free, scaled, gateway, last)]


def make(folder: Path, components: tuple[str, ...]) -> list[Manifest]:
    """Build the base with components, as an overlay of a platform team's own would."""
    folder.mkdir()
    tree = os.path.relpath(ROOT / "k8s", folder)
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", f"resources: [{tree}/base]"]
    named = "\n".join(f"  - {tree}/components/{name}" for name in components)
    (folder / "kustomization.yaml").write_text("\n".join([*lines, f"components:\n{named}" if components else "", ""]))
    return build(folder)


@pytest.mark.parametrize("name", ADDING)
def test_a_component_that_adds_changes_nothing_else(name: str, tmp_path: Path) -> None:
    base, more = make(tmp_path / "base", ()), make(tmp_path / "more", (name,))
    assert all(manifest in more for manifest in base) and len(more) > len(base)
    for manifest in more:
        check(manifest, VERSIONS[-1])


def test_every_combination_of_components_builds_and_is_valid(tmp_path: Path) -> None:
    for number, chosen in enumerate(combinations()):
        manifests = make(tmp_path / str(number), chosen)
        deployments = of_kind(manifests, "Deployment").keys()
        workloads = {"router"} if "all-in-one" in chosen else {"router", "detector", "embedder", "metadata"}
        assert deployments == workloads | ({"gateway"} & set(chosen))
        # The overlays hold each manifest to every version; here it is both ends.
        for manifest, version in itertools.product(manifests, (VERSIONS[0], VERSIONS[-1])):
            check(manifest, version)
