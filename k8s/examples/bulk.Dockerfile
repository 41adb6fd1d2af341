# The image of rayjob.yaml: Lookalike's own (docker/Dockerfile, target cpu or gpu) and Ray, of rayjob.yaml's rayVersion.
#
#   docker build --file k8s/examples/bulk.Dockerfile --build-arg BASE_IMAGE=lookalike:local --tag lookalike-bulk:0.1.0 .
ARG BASE_IMAGE=lookalike:local
FROM ${BASE_IMAGE}
USER root
# wget is what KubeRay's probes call.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv wget >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9 \
 && /opt/uv/bin/uv pip install --no-cache --python /opt/lookalike/.venv/bin/python 'ray[data,default]==2.60.0' \
 && rm -rf /opt/uv
# KubeRay starts Ray from a login shell, which sets PATH anew.
RUN ln -s /opt/lookalike/.venv/bin/ray /opt/lookalike/.venv/bin/lookalike /usr/local/bin/
USER 10001:10001
ENTRYPOINT []
CMD []
