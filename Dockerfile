# syntax=docker/dockerfile:1
# One image, several commands: tangram scheduler, tangram controller, tangram node. A build that must be reproducible
# to the byte gives PYTHON_IMAGE with its digest: --build-arg PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/tangram/venv
COPY pyproject.toml constraints.txt README.md ./
COPY operator ./operator
# Wheels only: nothing is compiled here, so neither compiler nor headers are needed.
RUN /opt/tangram/venv/bin/pip install --only-binary :all: --constraint constraints.txt . \
    && rm -rf build
# Compile the kernels now, so that a scheduler that starts can place at once.
RUN mkdir /opt/tangram/kernels \
    && NUMBA_CACHE_DIR=/opt/tangram/kernels /opt/tangram/venv/bin/tangram scheduler --warm-up

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="tangram" \
      org.opencontainers.image.description="Places training and inference on a shared pool of GPUs, whole or in fractions" \
      org.opencontainers.image.licenses="Apache-2.0"
# The same path as in the builder: a virtual environment cannot be moved, and kernels are found by the path of their source.
COPY --from=builder --chown=65532:65532 /opt/tangram /opt/tangram
ENV PATH=/opt/tangram/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/opt/tangram/kernels
USER 65532:65532
ENTRYPOINT ["tangram"]
