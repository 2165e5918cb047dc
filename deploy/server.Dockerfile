# The coordinator's server. From the top of the source tree:
#   docker build --file deploy/server.Dockerfile --tag wardround-server .
# docs/install.md says how it is run. pip's settings may be given: --build-arg PIP_INDEX_URL=...
FROM python:3.13-slim-trixie AS build

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /src
RUN python -m venv /opt/wardround
ENV PATH=/opt/wardround/bin:$PATH
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY wardround/ wardround/
COPY server/ server/
COPY client/ client/
COPY strategies/ strategies/
COPY simulations/ simulations/
RUN pip install --no-cache-dir --constraint constraints.txt --no-build-isolation '.[server,postgresql]'

FROM python:3.13-slim-trixie

RUN groupadd --gid 10001 wardround \
    && useradd --uid 10001 --gid wardround --no-create-home --home-dir /var/lib/wardround --shell /usr/sbin/nologin wardround \
    && install --directory --mode 0700 --owner wardround --group wardround /var/lib/wardround
COPY --from=build /opt/wardround /opt/wardround
ENV PATH=/opt/wardround/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    WARDROUND_SERVER_STATE=/var/lib/wardround/server

USER 10001:10001
WORKDIR /var/lib/wardround
VOLUME /var/lib/wardround
# for people and joining, and for sites
EXPOSE 8443 8444
STOPSIGNAL SIGTERM
# Whose certificate it is does not matter here: the call goes to this container alone.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import ssl, urllib.request; urllib.request.urlopen('https://127.0.0.1:8443/api/v1/health', timeout=8, context=ssl._create_unverified_context())"]
ENTRYPOINT ["wardround"]
CMD ["server", "start", "--key-file", "/run/secrets/server.key"]
