"""The Kubernetes manifest, by the schemas of Kubernetes."""

import kubernetes_validate
import yaml
from conftest import ROOT


def test_the_manifest_is_one():
    with open(ROOT / "native/scale/kubernetes.yaml") as file:
        parts = list(yaml.safe_load_all(file))
    assert {part["kind"] for part in parts} == {"Secret", "PersistentVolumeClaim", "Deployment", "Service", "HorizontalPodAutoscaler"}
    for part in parts:
        kubernetes_validate.validate(part, "1.31", strict=True)
    (deployment,) = [part for part in parts if part["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready" and container["livenessProbe"]["httpGet"]["path"] == "/health"
