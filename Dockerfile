# syntax=docker/dockerfile:1
# The image of every Trireme pod. Weights are not inside.
#
#   docker build -t trireme:0.1.0 .                                # GPUs: vllm, torch for CUDA
#   docker build -t trireme:0.1.0-cpu --build-arg VARIANT=cpu .    # trials without GPUs
#
# Pin the base by digest for anything but a trial: --build-arg BASE=python:3.11.13-slim-bookworm@sha256:…
ARG BASE=python:3.11.13-slim-bookworm
ARG VARIANT=gpu

FROM ${BASE} AS build
ARG VARIANT
ARG UV_VERSION=0.13.9
# PyTorch's wheels for CPUs are on no other index; uv knows where.
ENV UV_CACHE_DIR=/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=300
RUN pip install --no-cache-dir "uv==${UV_VERSION}" && python -m venv /opt/trireme
COPY requirements/${VARIANT}.txt /build/requirements.txt
# The list is complete: nothing is resolved, and what it leaves out stays out.
RUN --mount=type=cache,target=/cache/uv \
    if [ "$VARIANT" = cpu ]; then export UV_TORCH_BACKEND=cpu; fi; \
    uv pip install --no-deps --python /opt/trireme/bin/python -r /build/requirements.txt
COPY pyproject.toml README.md /build/
COPY cluster /build/cluster
COPY deployments /build/deployments
COPY autoscaling /build/autoscaling
RUN uv pip install --no-deps --python /opt/trireme/bin/python /build
# What is in the image, for scanners: name and version of every package.
RUN uv pip freeze --python /opt/trireme/bin/python > /opt/trireme/packages.txt

FROM ${BASE}
ARG VARIANT
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trireme" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      dev.trireme.variant="${VARIANT}" \
      dev.trireme.packages="/opt/trireme/packages.txt"
# KubeRay's probes call wget, its commands bash; vLLM compiles kernels with gcc; numactl's library is vLLM's on CPUs.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash wget gcc g++ libc6-dev libnuma1 libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 trireme \
 && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/trireme --shell /usr/sbin/nologin trireme
COPY --from=build /opt/trireme /opt/trireme
ENV PATH=/opt/trireme/bin:${PATH} \
    HOME=/home/trireme \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VLLM_NO_USAGE_STATS=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
WORKDIR /home/trireme
# KubeRay replaces it; without Kubernetes: docker run --gpus all … trireme up
ENTRYPOINT ["tini", "--"]
CMD ["trireme", "--help"]
