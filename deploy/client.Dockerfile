# The hospital's client, with what jobs need. From the top of the source tree:
#   docker build --file deploy/client.Dockerfile --tag wardround-client .
# docs/install.md says how it is run, and what it must be allowed so that it can confine jobs.
# pip's settings may be given, for a smaller torch say: --build-arg PIP_EXTRA_INDEX_URL=...
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
RUN pip install --no-cache-dir --constraint constraints.txt --no-build-isolation '.[job]'

FROM python:3.13-slim-trixie

RUN groupadd --gid 10001 wardround \
    && useradd --uid 10001 --gid wardround --no-create-home --home-dir /var/lib/wardround --shell /usr/sbin/nologin wardround \
    && install --directory --mode 0700 --owner wardround --group wardround /var/lib/wardround
COPY --from=build /opt/wardround /opt/wardround
ENV PATH=/opt/wardround/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    WARDROUND_CLIENT_STATE=/var/lib/wardround/client

USER 10001:10001
WORKDIR /var/lib/wardround
VOLUME /var/lib/wardround
STOPSIGNAL SIGTERM
# Healthy is an agent that holds its folder; whether it reaches the server is in its log, and `client doctor` says why not.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, sys; from wardround.client.agent.site_folder import SiteFolder, default_folder; sys.exit(not SiteFolder(default_folder(os.environ)).agent_runs())"]
ENTRYPOINT ["wardround"]
CMD ["client", "start"]
