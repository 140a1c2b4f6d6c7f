# syntax=docker/dockerfile:1
# One image, several commands: tangram scheduler, tangram controller, tangram node. Python's image is named by its full
# version; a build that must be reproducible to the byte adds the digest of your registry's copy: --build-arg PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# Wheels only: nothing is compiled here, so neither compiler nor headers are needed. Each file has to have the hash that
# is written down, those of the build included, which therefore has no environment that pip fills by itself.
COPY hashes.txt build-hashes.txt ./
RUN python -m venv /opt/tangram/venv \
    && /opt/tangram/venv/bin/pip install --only-binary :all: --require-hashes --requirement hashes.txt \
    && python -m venv tools \
    && tools/bin/pip install --only-binary :all: --require-hashes --requirement build-hashes.txt
COPY pyproject.toml README.md ./
COPY operator ./operator
RUN tools/bin/pip wheel --no-index --no-build-isolation --no-deps --wheel-dir dist . \
    && /opt/tangram/venv/bin/pip install --no-index --no-deps dist/*.whl
# Compile the kernels now, so that a scheduler that starts can place at once.
RUN mkdir /opt/tangram/kernels \
    && NUMBA_CACHE_DIR=/opt/tangram/kernels /opt/tangram/venv/bin/tangram scheduler --warm-up \
    # On OpenShift the user is another one.
    && chmod -R a+rX /opt/tangram

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
